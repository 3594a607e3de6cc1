"""Where batches come from: whole graphs take examples as they are, suffix graphs what the frozen prefix gives for them.

The one place that decides which graphs of a bundle train, evaluate and are fed with what.
"""

import contextlib
import dataclasses
import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from fieldtune.activations import ActivationCache, CacheSettings, CacheStatistics, PrefixName, open_cache, record_form
from fieldtune.bundle import SUFFIX_GRAPHS, WHOLE_GRAPHS, Batch, Bundle, FloatArray, TensorSpec, read_node_table
from fieldtune.compilation import Prefix, open_prefix
from fieldtune.data import EncodedSet, IntArray, batch_of, static_shape
from fieldtune.hardware import HardwareProfile
from fieldtune.placement import Piece, PlacementReport, split_pieces
from fieldtune.runtime import ProviderChoice, cpu_choice


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SplitReport:
    """How a split bundle was run.

    Attributes:
        placement: where the prefix runs.
        activations: what the cache of its outputs was good for.
        prefix_seconds: wall-clock time of the runs of the prefix; where ``placement`` is emulated, of the emulation,
            which says nothing about the accelerator.
        pieces: of prefix and suffix, as they are planned.
        boundary_bytes: that are carried for each sample, as float32.
    """

    placement: PlacementReport
    activations: CacheStatistics
    prefix_seconds: float
    pieces: tuple[Piece, ...]
    boundary_bytes: int


class Counts(NamedTuple):
    """How often the cache had a sample's boundary, how often and how long the prefix was run instead, or emulated."""

    hits: int
    misses: int
    prefix_seconds: float
    emulated: bool


class BatchSource(Protocol):
    """What the graphs of a run are fed with, and which graphs these are."""

    @property
    def choice(self) -> ProviderChoice:
        """How their sessions are opened."""

    @property
    def graphs(self) -> Mapping[str, str]:
        """gradient, eval, infer → the graph that is opened for it."""

    @property
    def split(self) -> SplitReport | None:
        """How the prefix was run until now; None where the graphs are whole."""

    @property
    def counts(self) -> Counts:
        """What has been counted until now; zeros where the graphs are whole."""

    def batch_size(self, asked: int) -> int:
        """Return how many examples go into a batch: what is asked for, unless the graphs are static."""

    def batch(self, name: str, encoded: EncodedSet, indices: IntArray) -> Batch:
        """Return the arrays of one batch for the graph that is opened for ``name``.

        Args:
            name: gradient or eval.
            encoded: all examples.
            indices: which ones, int64, shape (rows,).

        Raises:
            FieldtuneError: ONNX Runtime cannot run the prefix.
        """


class WholeBatches:
    """Examples as the whole graphs take them."""

    graphs = WHOLE_GRAPHS
    split = None
    counts = Counts(0, 0, 0.0, emulated=False)

    def __init__(self, bundle: Bundle, choice: ProviderChoice) -> None:
        self._manifest = bundle.manifest
        self.choice = choice

    def batch_size(self, asked: int) -> int:
        """Return the static graphs' size, else what is asked for."""
        return static_shape(self._manifest.graphs["eval"].inputs)[0] or asked

    def batch(self, name: str, encoded: EncodedSet, indices: IntArray) -> Batch:
        """Return the arrays of one batch."""
        return batch_of(encoded.examples, indices, self._manifest.graphs[name].inputs, image=self._manifest.image)


class SplitBatches:
    """The boundary for each example, from the cache or from the prefix, with labels and masks beside it.

    Args:
        bundle: a split one.
        choice: how the suffix graphs are opened.
        prefix: gives the boundary.
        cache: of what it gave.
        pieces: of prefix and suffix.
    """

    graphs = SUFFIX_GRAPHS

    def __init__(
        self,
        bundle: Bundle,
        choice: ProviderChoice,
        prefix: Prefix,
        cache: ActivationCache,
        pieces: tuple[Piece, ...] = (),
    ) -> None:
        manifest = bundle.manifest
        self.choice, self._pieces = choice, pieces
        self._manifest, self._prefix, self._cache = manifest, prefix, cache
        self._shapes = {spec.name: _sizes(spec.shape[1:]) for spec in prefix.spec.outputs}
        self._form = record_form(read_node_table(bundle.root / prefix.spec.nodes), list(self._shapes))
        # Texts are as long as the graphs are; how many go in at once, the prefix sees to.
        self._sequence = static_shape(prefix.spec.inputs)[1]
        self._digests: dict[int, tuple[EncodedSet, dict[int, bytes]]] = {}
        self._prefix_seconds = 0.0

    @property
    def split(self) -> SplitReport:
        """How the prefix was run until now."""
        return SplitReport(
            placement=self._prefix.report,
            activations=self._cache.statistics,
            prefix_seconds=self._prefix_seconds,
            pieces=self._pieces,
            boundary_bytes=sum(4 * math.prod(shape) for shape in self._shapes.values()),
        )

    @property
    def counts(self) -> Counts:
        """What has been counted until now."""
        emulated = self._prefix.report.emulated
        return Counts(self._cache.hits, self._cache.misses, self._prefix_seconds, emulated=emulated)

    def batch_size(self, asked: int) -> int:
        """Return what is asked for: suffix graphs take any number."""
        return asked

    def batch(self, name: str, encoded: EncodedSet, indices: IntArray) -> Batch:
        """Return the arrays of one batch."""
        inputs = self._manifest.graphs[self.graphs[name]].inputs
        beside = self._batch(encoded, indices, inputs)
        return {**self._boundary(encoded, [int(index) for index in indices]), **beside}

    def _boundary(self, encoded: EncodedSet, indices: Sequence[int]) -> dict[str, FloatArray]:
        digests = self._digests_of(encoded, indices)
        boundary = {name: np.empty((len(indices), *shape), np.float32) for name, shape in self._shapes.items()}
        missing: dict[bytes, list[int]] = {}
        for row, digest in enumerate(digests):
            record = self._cache.get(digest)
            decoded = None if record is None else self._form.decode(record, self._shapes)
            if decoded is None:
                missing.setdefault(digest, []).append(row)
                continue
            for name, values in decoded.items():
                boundary[name][row] = values
        if missing:
            computed = self._computed(encoded, [indices[rows[0]] for rows in missing.values()])
            for name, values in computed.items():
                for rows, value in zip(missing.values(), values, strict=True):
                    boundary[name][rows] = value
            self._cache.put(
                {
                    digest: self._form.encode({name: values[number] for name, values in computed.items()})
                    for number, digest in enumerate(missing)
                }
            )
        return boundary

    def _computed(self, encoded: EncodedSet, indices: Sequence[int]) -> dict[str, FloatArray]:
        arrays = self._prefix_inputs(encoded, indices)
        started = time.perf_counter()
        boundary = self._prefix.run(arrays)
        self._prefix_seconds += time.perf_counter() - started
        return boundary

    def _digests_of(self, encoded: EncodedSet, indices: Sequence[int]) -> list[bytes]:
        """Return what the examples are known by: their content as the prefix takes it, not where it came from."""
        # The set is held beside its digests, so that no other one can come to have its id.
        _, known = self._digests.setdefault(id(encoded), (encoded, {}))
        new = [index for index in dict.fromkeys(indices) if index not in known]
        if new:
            arrays = self._prefix_inputs(encoded, new)
            known.update((index, _digest(arrays, row)) for row, index in enumerate(new))
        return [known[index] for index in indices]

    def _prefix_inputs(self, encoded: EncodedSet, indices: Sequence[int]) -> Batch:
        return self._batch(encoded, indices, self._prefix.spec.inputs)

    def _batch(self, encoded: EncodedSet, indices: npt.ArrayLike, inputs: Sequence[TensorSpec]) -> Batch:
        shape = (None, self._sequence)
        return batch_of(encoded.examples, indices, inputs, image=self._manifest.image, shape=shape)


@contextlib.contextmanager
def open_batches(
    bundle: Bundle,
    profile: HardwareProfile,
    choice: ProviderChoice,
    settings: CacheSettings,
    *,
    whole: bool = False,
) -> Iterator[BatchSource]:
    """Give what a run on a profile is fed with, and close it at the end of the block.

    Beside an accelerator, and wherever the bundle is split, it is the suffix graphs that run, unless the whole ones are
    asked for.

    Args:
        bundle: the bundle.
        profile: of the device.
        choice: the provider that was chosen for it.
        settings: of the activation cache.
        whole: take the whole graphs though the bundle is split.

    Raises:
        InvalidBundle: the bundle has no prefix for the profile's accelerator.
        FieldtuneError: the prefix cannot be opened; whatever ``open_prefix`` raises.
    """
    if whole or not _is_split(bundle, profile):
        yield WholeBatches(bundle, choice)
        return
    prefix = open_prefix(bundle, profile, choice)
    name = PrefixName(
        base=bundle.manifest.base.id,
        profile=profile.name,
        graph=prefix.report.graph,
        emulated=prefix.report.emulated,
    )
    with contextlib.closing(open_cache(settings, prefix.identity, name)) as cache:
        pieces = split_pieces(bundle, profile, prefix.report.graph, prefix.batch)
        yield SplitBatches(bundle, _suffix_choice(profile, choice), prefix, cache, pieces)


def _is_split(bundle: Bundle, profile: HardwareProfile) -> bool:
    """Whether a bundle is run as prefix and suffix on a profile."""
    return profile.accelerator is not None or bundle.manifest.split is not None


def _suffix_choice(profile: HardwareProfile, choice: ProviderChoice) -> ProviderChoice:
    """Return how suffix graphs are opened: beside an accelerator on the CPU, else as everything is."""
    return choice if profile.accelerator is None else cpu_choice(profile)


def _digest(arrays: Batch, row: int) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name][row])
        digest.update(f"{name} {values.dtype.str} {values.shape} ".encode())
        digest.update(values.data)
    return digest.digest()


def _sizes(shape: tuple[Any, ...]) -> tuple[int, ...]:
    assert all(isinstance(size, int) for size in shape), shape
    return shape
