"""Prefix: the frozen part of a split bundle, opened where its profile says, and run on batches of any size."""

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fieldtune.bundle import PREFIX_GRAPH, Bundle, FloatArray, GraphSpec, TensorSpec, read_node_table
from fieldtune.compilation.job import EMULATION_CONFIG, Job, open_job
from fieldtune.compilation.kept import CompiledStore, Entry, file_names, prefix_identity
from fieldtune.data import filled_up, prefix_batch
from fieldtune.errors import InvalidBundle
from fieldtune.hardware import HardwareProfile, OnMissing
from fieldtune.placement import PlacementReport, choose_for, find_target, open_graph, open_recorded, plain_report
from fieldtune.runtime import ProviderChoice, open_session, run_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class Prefix:
    """An open prefix. Nothing in it changes after construction, so that threads can share it.

    Args:
        session: of the graph.
        spec: what goes in and comes out.
        batch: samples in each run of the session.
        identity: of all that its outputs depend on beside the inputs: a key for caches of them.
        report: where it runs.
        compiles: how many compiles opening it has caused: 0, unless a provider did not take its compiled form.
        least_run_s: how long each run of the session takes at least, to simulate an accelerator.
    """

    def __init__(
        self,
        session: "InferenceSession",
        spec: GraphSpec,
        batch: int,
        identity: str,
        report: PlacementReport,
        compiles: int = 0,
        least_run_s: float = 0.0,
    ) -> None:
        self._session, self._least_run_s = session, least_run_s
        self.spec, self.batch, self.identity, self.report, self.compiles = spec, batch, identity, report, compiles

    def run(self, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, FloatArray]:
        """Compute the boundary of samples, in as many runs as they need.

        The last run is filled up with copies of the last sample, whose results are dropped. The result of a sample
        does not depend on those beside it.

        Args:
            arrays: an array for each of ``spec.inputs``, samples first, of any equal number; others are left out.

        Returns:
            Boundary tensor's name → float32 array, samples first.

        Raises:
            FieldtuneError: ONNX Runtime fails.
            ValueError: an input is missing, or inputs have different numbers of samples.
        """
        missing = [spec.name for spec in self.spec.inputs if spec.name not in arrays]
        if missing:
            raise ValueError(f"the prefix is not fed with {', '.join(missing)}; there are {', '.join(arrays)}")
        feeds = {spec.name: np.asarray(arrays[spec.name]) for spec in self.spec.inputs}
        counts = {name: len(array) for name, array in feeds.items()}
        rows = next(iter(counts.values()))
        if any(count != rows for count in counts.values()):
            raise ValueError(f"inputs of the prefix have different numbers of samples: {counts}")
        parts = [self._run_batch(feeds, start) for start in range(0, rows, self.batch)]
        return {
            spec.name: np.concatenate([part[spec.name] for part in parts]) if parts else _nothing(spec)
            for spec in self.spec.outputs
        }

    def _run_batch(self, feeds: Mapping[str, npt.NDArray[Any]], start: int) -> dict[str, FloatArray]:
        names = [spec.name for spec in self.spec.outputs]
        rows = {name: array[start : start + self.batch] for name, array in feeds.items()}
        count = len(next(iter(rows.values())))
        started = time.perf_counter()
        # Whatever a sample may be, copies of it are of its kind.
        outputs = run_session(self._session, names, filled_up(rows, self.batch))
        time.sleep(max(self._least_run_s - (time.perf_counter() - started), 0))
        return {name: array[:count] for name, array in zip(names, outputs, strict=True)}


def open_prefix(
    bundle: Bundle,
    profile: HardwareProfile,
    choice: ProviderChoice | None = None,
    *,
    on_missing: OnMissing | None = None,
    store: CompiledStore | None = None,
) -> Prefix:
    """Open the prefix of a split bundle where a profile says; nothing is ever compiled by this.

    * An accelerator: from its compiled form, whose key has to be that of what is here now; placement is read back.
    * Its emulation: the same quantized graph on the CPU, operator by operator, where it was compiled for emulation.
    * An accelerator whose provider is missing, and ``on_missing = "cpu"``: the same quantized graph on the CPU, as fast
      as ONNX Runtime makes it. Nothing is compiled or emulated.
    * No accelerator: the prefix in float32, with the provider that the profile names. Where that is not the CPU's,
      placement is read back.

    Args:
        bundle: a split one.
        profile: of the device.
        choice: the provider that was chosen for both; chosen here if None.
        on_missing: for that choice: what to do where the profile's provider is not there; what the profile says if
            None.
        store: of compiled forms; the one in the cache folder if None.

    Raises:
        ProviderUnavailable: the provider is not there.
        InvalidBundle: the bundle is not split, or has no prefix for the profile's accelerator.
        CompileError: it is not compiled; or what is compiled is damaged or belongs to something else, with what
            differs.
        PlacementRefused: less of it runs on the accelerator than the profile demands, or the emulated accelerator would
            refuse it.
    """
    choice = choice or choose_for(bundle, profile, on_missing=on_missing)
    if profile.accelerator is None:
        return _open_float(bundle, choice)
    if choice.runs_as_is:
        return _open_plain(bundle, choice, find_target(bundle, profile).graph)
    job = open_job(bundle, profile, choice)
    store = store or CompiledStore()
    entry = store.require(job.key, bundle, _command(bundle, profile, choice.on_missing))
    folder = store.folder(job.key)
    return _open_emulated(job, folder) if choice.emulated else _open_compiled(job, entry, folder)


def _open_float(bundle: Bundle, choice: ProviderChoice) -> Prefix:
    if bundle.manifest.split is None:
        raise InvalidBundle(f"{bundle.root}: is not split; build it with: fieldtune-offline build MODEL --split auto")
    return _open_plain(bundle, choice, PREFIX_GRAPH)


def _open_plain(bundle: Bundle, choice: ProviderChoice, graph: str) -> Prefix:
    """Open a graph as it is; a profile without an accelerator may name another provider than the CPU's."""
    spec = bundle.manifest.graphs[graph]
    first = spec.inputs[0].shape[0]
    batch = prefix_batch(spec)
    session, report = open_graph(bundle, graph, choice, batch)
    if report is None:
        table, sizes = read_node_table(bundle.root / spec.nodes), {first: batch} if isinstance(first, str) else {}
        report = plain_report(table, choice, graph, sizes, batch)
    return Prefix(session, spec, batch, prefix_identity(bundle, choice, report), report)


def _open_emulated(job: Job, folder: Path) -> Prefix:
    report, opened = job.planned(), job.choice_for(folder)
    session = open_session(job.path, opened, EMULATION_CONFIG)
    least_run_s = (report.estimated_run_s or 0.0) if report.latency_simulated else 0.0
    identity = prefix_identity(job.bundle, opened, report)
    return Prefix(session, job.spec, job.target.batch, identity, report, least_run_s=least_run_s)


def _open_compiled(job: Job, entry: Entry, folder: Path) -> Prefix:
    opened = job.choice_for(folder)
    path = folder / entry.context if entry.context else job.path
    session, pieces = open_recorded(path, opened, {}, job.spec.inputs)
    report = job.read_back(pieces)
    identity = prefix_identity(job.bundle, opened, report)
    return Prefix(session, job.spec, job.target.batch, identity, report, _count_compiles(entry, folder))


def _nothing(spec: TensorSpec) -> FloatArray:
    """Return an array of no sample."""
    return np.empty([0, *(dim if isinstance(dim, int) else 0 for dim in spec.shape[1:])], np.float32)


def _command(bundle: Bundle, profile: HardwareProfile, on_missing: OnMissing | None) -> str:
    command = f"fieldtune compile {bundle.root} --profile {profile.name}"
    return command if on_missing is None else f"{command} --on-missing {on_missing}"


def _count_compiles(entry: Entry, folder: Path) -> int:
    """Return 1, after a warning, where opening has put files beside the compiled form: the provider compiled again."""
    written = sorted(set(file_names(folder)) - set(entry.files))
    if not written:
        return 0
    warnings.warn(
        f"{folder}: the provider wrote {', '.join(written)} when it opened what was compiled, so that it may have "
        "compiled again; compile with --overwrite if this comes back",
        stacklevel=4,
    )
    return 1
