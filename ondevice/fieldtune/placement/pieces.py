"""Pieces: a graph's nodes in the order in which they run, joined where neighbours run in one place."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from fieldtune.bundle import NO_SIZES, SUFFIX_GRAPHS, Bundle, NodeTable, Sizes, read_node_table
from fieldtune.hardware import HardwareProfile
from fieldtune.placement.plan import PlacementPlan, plan_placement


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Neighbouring nodes of one graph that run in one place.

    Attributes:
        graph: name of it.
        partition: number of the partition on the accelerator, from 0; None on the CPU.
        operators: ONNX operator → how many, the most frequent first.
        macs: multiply-accumulate operations of one run.
    """

    graph: str
    partition: int | None
    operators: Mapping[str, int]
    macs: int

    @property
    def nodes(self) -> int:
        """How many nodes it has."""
        return sum(self.operators.values())


def pieces_of(table: NodeTable, plan: PlacementPlan | None, sizes: Sizes = NO_SIZES) -> tuple[Piece, ...]:
    """Return a graph's pieces in the order in which they run.

    Args:
        table: of the graph.
        plan: where its nodes run; None for all on the CPU, as one piece.
        sizes: of symbolic dimensions.

    Raises:
        KeyError: a symbolic dimension without a size.
    """
    if plan is None:
        return (_piece(table, range(len(table.nodes)), None, sizes),)
    place: dict[int, int] = {
        node: number for number, partition in enumerate(plan.partitions) for node in partition.nodes
    }
    # A partition runs in one go, once all that it reads is there: it stands where its last node does.
    last = {number: max(partition.nodes) for number, partition in enumerate(plan.partitions)}
    runs: list[tuple[int | None, list[int]]] = []
    for index in range(len(table.nodes)):
        number = place.get(index)
        if number is None:
            if not runs or runs[-1][0] is not None:
                runs.append((None, []))
            runs[-1][1].append(index)
        elif last[number] == index:
            runs.append((number, list(plan.partitions[number].nodes)))
    return tuple(_piece(table, nodes, number, sizes) for number, nodes in runs)


def split_pieces(bundle: Bundle, profile: HardwareProfile, graph: str, batch: int) -> tuple[Piece, ...]:
    """Return the pieces of a split bundle that serves: of its prefix as it is planned, then of its suffix.

    Args:
        bundle: a split one.
        profile: of the device.
        graph: name of the prefix graph that is run.
        batch: samples in a run.
    """
    prefix, suffix = (
        read_node_table(bundle.root / bundle.manifest.graphs[name].nodes) for name in (graph, SUFFIX_GRAPHS["infer"])
    )
    accelerator = profile.accelerator
    sizes = {"batch": batch, "rank": bundle.manifest.layout.rank}
    plan = None if accelerator is None else plan_placement(prefix, accelerator)
    return (*pieces_of(prefix, plan, sizes), *pieces_of(suffix, None, sizes))


def _piece(table: NodeTable, nodes: Sequence[int], partition: int | None, sizes: Sizes) -> Piece:
    chosen = [table.nodes[index] for index in nodes]
    return Piece(
        graph=table.graph,
        partition=partition,
        operators=dict(collections.Counter(node.op for node in chosen).most_common()),
        macs=sum(table.macs(node, sizes) for node in chosen),
    )
