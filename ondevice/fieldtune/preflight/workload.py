"""Which graphs a command opens on a device, where each of them runs, and how much goes into it."""

import dataclasses
from collections.abc import Mapping
from typing import Literal, TypeAlias

from fieldtune.bundle import PREFIX_GRAPH, SUFFIX_GRAPHS, Bundle, NodeTable, decodes, read_node_table
from fieldtune.data import prefix_batch
from fieldtune.hardware import HardwareProfile
from fieldtune.placement import find_target

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
    """

    graph: str
    is_prefix: bool
    on_accelerator: bool
    batch: int
    table: NodeTable


def uses_of(bundle: Bundle) -> tuple[Use, ...]:
    """Return what the graphs of a bundle can be used for."""
    return tuple(use for use, graphs in _GRAPHS.items() if all(name in bundle.manifest.graphs for name in graphs))


def batch_of_use(bundle: Bundle, use: Use, batch: int) -> int:
    """Return how many samples of those that are asked for go in together: answers are written one at a time."""
    return 1 if use == "inference" and decodes(bundle.manifest) else batch


def parts_of(bundle: Bundle, profile: HardwareProfile, use: Use, batch: int) -> tuple[Part, ...]:
    """Return the graphs that a use opens.

    With an accelerator its prefix runs there and what is behind it on the CPU. Without one, a bundle with a split
    trains and evaluates behind the float32 prefix, whose results are kept; inference runs the whole graph.

    Args:
        bundle: the bundle.
        profile: of the device.
        use: what for.
        batch: samples that go in together.

    Raises:
        InvalidBundle: the bundle has no prefix for the profile's accelerator, or a node table cannot be read.
    """
    manifest, names = bundle.manifest, _GRAPHS[use]
    prefix: Part | None = None
    if profile.accelerator is not None:
        target = find_target(bundle, profile)
        prefix = _part(bundle, target.graph, target.batch, is_prefix=True, on_accelerator=True)
    elif manifest.split is not None and use != "inference":
        prefix = _part(bundle, PREFIX_GRAPH, prefix_batch(manifest.graphs[PREFIX_GRAPH]), is_prefix=True)
    if prefix is None:
        return tuple(_part(bundle, name, batch) for name in names)
    return (prefix, *(_part(bundle, SUFFIX_GRAPHS[name], batch) for name in names))


def _part(bundle: Bundle, graph: str, batch: int, *, is_prefix: bool = False, on_accelerator: bool = False) -> Part:
    table = read_node_table(bundle.root / bundle.manifest.graphs[graph].nodes)
    return Part(graph=graph, is_prefix=is_prefix, on_accelerator=on_accelerator, batch=batch, table=table)
