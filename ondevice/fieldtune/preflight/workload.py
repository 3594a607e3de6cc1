"""Which graphs a command opens on a device, where each of them runs, and how much goes into it."""

import dataclasses
from collections.abc import Mapping
from typing import Literal, TypeAlias

from fieldtune.bundle import (
    PREFIX_GRAPH,
    SUFFIX_GRAPHS,
    Bundle,
    NodeTable,
    Sizes,
    decodes,
    dimension_sizes,
    read_node_table,
)
from fieldtune.data import batch_limit, length_limit, prefix_batch
from fieldtune.hardware import HardwareProfile
from fieldtune.placement import find_target
from fieldtune.preflight.packed_products import multiplies_integers, unpacked_weights

Use: TypeAlias = Literal["training", "training with evaluation", "evaluation", "inference"]
"""fieldtune train, with --eval, fieldtune evaluate, and fieldtune run."""

_GRAPHS: Mapping[Use, tuple[str, ...]] = {
    "training": ("gradient",),
    "training with evaluation": ("eval", "gradient"),
    "evaluation": ("eval",),
    "inference": ("infer",),
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One graph of a use.

    Attributes:
        graph: its name.
        is_prefix: whether it is the frozen prefix, whose results are kept for later epochs.
        on_accelerator: or on the CPU.
        batch: samples of one run: those asked for, or the number that a prefix is run with.
        table: of its nodes.
        sequence: tokens of a sample, at most; 0 for images.
        rank: of the adapter that is fed.
    """

    graph: str
    is_prefix: bool
    on_accelerator: bool
    batch: int
    table: NodeTable
    sequence: int
    rank: int

    def sizes(self, batch: int | None = None) -> Sizes:
        """Return the sizes of the graph's symbolic dimensions, for another batch than its own if one is given."""
        return dimension_sizes(self.table, batch=batch or self.batch, sequence=self.sequence, rank=self.rank)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        sizes = self.sizes()
        return sum(self.table.macs(node, sizes) for node in self.table.nodes)

    @property
    def integer_macs(self) -> int:
        """Those of them that are of integers."""
        sizes, table = self.sizes(), self.table
        return sum(table.macs(node, sizes) for node in table.nodes if multiplies_integers(table, node))

    def unpacked_weights(self, *, prepacking: bool) -> int:
        """Return how many weights of packed matrices one run unpacks."""
        return sum(unpacked_weights(self.table, node, prepacking=prepacking) for node in self.table.nodes)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What a command does on a device.

    Attributes:
        bundle: the bundle.
        profile: of the device.
        use: what for.
        batch: samples that go in together.
        sequence: tokens of each, at most; 0 for images.
        samples: how many examples the data has; 0 where that is not told.
        parts: the graphs that it opens.
    """

    bundle: Bundle
    profile: HardwareProfile
    use: Use
    batch: int
    sequence: int
    samples: int
    parts: tuple[Part, ...]

    @property
    def prefix(self) -> Part | None:
        """The frozen prefix, if it is run by itself."""
        return next((part for part in self.parts if part.is_prefix), None)


def sizes_of(
    bundle: Bundle, profile: HardwareProfile, batch_size: int | None, max_length: int | None
) -> tuple[int, int]:
    """Return the samples that go in together and the tokens of each, as they are asked for or else by the profile.

    Raises:
        ValueError: more samples or tokens than static graphs take.
    """
    manifest = bundle.manifest
    inputs = next(manifest.graphs[name].inputs for name in ("gradient", "infer") if name in manifest.graphs)
    batch = batch_limit(batch_size, profile, inputs)
    return batch, length_limit(max_length, profile, inputs, manifest.text) or 0


def uses_of(bundle: Bundle) -> tuple[Use, ...]:
    """Return what the graphs of a bundle can be used for."""
    return tuple(use for use, graphs in _GRAPHS.items() if all(name in bundle.manifest.graphs for name in graphs))


def workload_of(
    bundle: Bundle, profile: HardwareProfile, use: Use, *, batch: int, sequence: int, samples: int = 0
) -> Workload:
    """Return what a use of a bundle opens on a device.

    With an accelerator its prefix runs there and what is behind it on the CPU. Without one, a bundle with a split
    trains and evaluates behind the float32 prefix, whose results are kept; inference runs the whole graph.

    Args:
        bundle: the bundle.
        profile: of the device.
        use: what for.
        batch: samples that go in together; where text is generated, one prompt after the other is answered.
        sequence: tokens of each, at most; 0 for images.
        samples: how many examples the data has.

    Raises:
        InvalidBundle: the bundle has no prefix for the profile's accelerator, or a node table cannot be read.
    """
    manifest, names = bundle.manifest, _GRAPHS[use]
    if use == "inference" and decodes(manifest):
        batch = 1

    def part(graph: str, batch: int, *, is_prefix: bool = False, on_accelerator: bool = False) -> Part:
        return Part(
            graph=graph,
            is_prefix=is_prefix,
            on_accelerator=on_accelerator,
            batch=batch,
            table=read_node_table(bundle.root / manifest.graphs[graph].nodes),
            sequence=sequence,
            rank=manifest.layout.rank,
        )

    prefix: Part | None = None
    if profile.accelerator is not None:
        target = find_target(bundle, profile)
        prefix = part(target.graph, target.batch, is_prefix=True, on_accelerator=True)
    elif manifest.split is not None and use != "inference":
        prefix = part(PREFIX_GRAPH, prefix_batch(manifest.graphs[PREFIX_GRAPH]), is_prefix=True)
    if prefix is None:
        parts = tuple(part(name, batch) for name in names)
    else:
        parts = (prefix, *(part(SUFFIX_GRAPHS[name], batch) for name in names))
    return Workload(
        bundle=bundle, profile=profile, use=use, batch=batch, sequence=sequence, samples=samples, parts=parts
    )
