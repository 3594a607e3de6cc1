"""Where an open session really runs each node of its graph, as ONNX Runtime tells it.

ONNX Runtime records it while it opens a session, where it has get_provider_graph_assignment_info; older ones tell it in
the profile of a run. Neither names what is inside of a compiled piece: the profile shows one node in its place, and a
compiled form that is opened has nothing else in it. Then whatever the CPU does not run is in such a piece.
"""

import contextlib
import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fieldtune.bundle import NO_SIZES, NodeTable, Sizes, TensorSpec, tensor_bytes
from fieldtune.errors import CompileError
from fieldtune.hardware import CPU_PROVIDER
from fieldtune.placement.flow import OUTPUT, Dataflow, heavy_nodes, match_nodes, trace
from fieldtune.placement.plan import CpuNode, Partition, PlacementPlan
from fieldtune.runtime import ProviderChoice, open_session, run_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_RECORD = {"session.record_ep_graph_assignment_info": "1"}
_KERNEL = "_kernel_time"
"""What a profile appends to the name of a node for the time that it took."""


class Ran(NamedTuple):
    """A node that a session has."""

    name: str
    op: str


class RanPiece(NamedTuple):
    """Nodes that one provider runs in one go, with the names that they have after ONNX Runtime's rewriting."""

    provider: str
    nodes: tuple[Ran, ...]


class ReadPlacement(NamedTuple):
    """Where the nodes of a node table run; those that were folded away are in neither.

    Attributes:
        partitions: indices of the nodes in each piece that the accelerator runs; one group of all where the pieces
            are known by their number alone.
        cpu: indices of the nodes that the CPU runs.
        pieces: how many there are on the accelerator.
    """

    partitions: tuple[tuple[int, ...], ...]
    cpu: tuple[int, ...]
    pieces: int


def records_placement() -> bool:
    """Whether the installed ONNX Runtime records where nodes run while it opens a session: 1.24 and later."""
    import onnxruntime

    return hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info")


def open_recorded(
    path: Path,
    choice: ProviderChoice,
    config: Mapping[str, str],
    inputs: Sequence[TensorSpec],
    sizes: Sizes = NO_SIZES,
    *,
    in_order: bool = False,
) -> "tuple[InferenceSession, tuple[RanPiece, ...]]":
    """Open a session and read back where its nodes run; it takes one run on zeros where ONNX Runtime records nothing.

    Args:
        path: of the .onnx file.
        choice: the provider, its options, and how sessions are opened.
        config: further entries of ONNX Runtime's session configuration.
        inputs: what the graph is fed with.
        sizes: of symbolic dimensions in that run; 1 for those that are not named.
        in_order: as for ``open_session``.

    Raises:
        InvalidBundle, ProviderUnavailable: as ``open_session``.
        FieldtuneError: the run on zeros fails.
        CompileError: the profile of that run cannot be read.
    """
    if records_placement():
        session = open_session(path, choice, {**config, **_RECORD}, in_order=in_order)
        return session, _recorded(session)
    with tempfile.TemporaryDirectory(prefix="fieldtune-profile-") as folder:
        session = open_session(path, choice, config, in_order=in_order, profile_prefix=Path(folder) / "run")
        return session, profiled_pieces(session, inputs, sizes)


def profiled_pieces(
    session: "InferenceSession", inputs: Sequence[TensorSpec], sizes: Sizes = NO_SIZES
) -> tuple[RanPiece, ...]:
    """Read back where a session's nodes run from the profile of one run on zeros.

    Args:
        session: opened with ``profile_prefix``; it records no longer when this returns.
        inputs: what the graph is fed with.
        sizes: of symbolic dimensions; 1 for those that are not named.

    Raises:
        FieldtuneError: the run fails.
        CompileError: the profile cannot be read.
    """
    feeds = {
        spec.name: np.zeros([dim if isinstance(dim, int) else sizes.get(dim, 1) for dim in spec.shape], spec.dtype)
        for spec in inputs
    }
    run_session(session, [output.name for output in session.get_outputs()], feeds)
    written = Path(session.end_profiling())
    try:
        events = json.loads(written.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CompileError(f"ONNX Runtime's profile {written} cannot be read: {error}") from error
    return tuple(RanPiece(provider, (node,)) for provider, node in _kernels(events))


def match_pieces(table: NodeTable, pieces: Sequence[RanPiece], sizes: Sizes = NO_SIZES) -> ReadPlacement:
    """Find the nodes of a node table among the pieces of its session.

    Every multiply-accumulate is counted, and in doubt as the CPU's. Where a piece does not name what is in it, whatever
    the CPU does not run is in such a piece; where all of them do, the CPU runs what is in none.

    Args:
        table: of the graph.
        pieces: of its session.
        sizes: of the graph's symbolic dimensions.
    """
    on_cpu = [node for piece in pieces if piece.provider == CPU_PROVIDER for node in piece.nodes]
    placed = [piece for piece in pieces if piece.provider != CPU_PROVIDER]
    matches = match_nodes(table, [*on_cpu, *(node for piece in placed for node in piece.nodes)], sizes)
    cpu = {index for index in matches[: len(on_cpu)] if index is not None}
    rest = iter(matches[len(on_cpu) :])
    groups = [{index for index in itertools.islice(rest, len(piece.nodes)) if index is not None} for piece in placed]
    unseen = set(heavy_nodes(table, sizes)) - cpu.union(*groups)
    count = len(placed)
    if not all(groups) and (unseen or not any(groups)):
        groups = [set(range(len(table.nodes))) - cpu]
    else:
        cpu |= unseen
        if all(len(piece.nodes) == 1 for piece in placed):
            groups = _joined(groups, cpu)
            count = len(groups)
    return ReadPlacement(
        partitions=tuple(tuple(sorted(group)) for group in groups if group), cpu=tuple(sorted(cpu)), pieces=count
    )


def _joined(groups: Sequence[set[int]], cpu: set[int]) -> list[set[int]]:
    """Join nodes that a provider which compiles nothing is given one by one, where the CPU runs none between them."""
    placed, joined, alone = set[int]().union(*groups), list[set[int]](), True
    for index in sorted(placed | cpu):
        if index in placed and alone:
            joined.append(set())
        alone = index not in placed
        if not alone:
            joined[-1].add(index)
    return joined


def describe(table: NodeTable, read: ReadPlacement, sizes: Sizes = NO_SIZES) -> PlacementPlan:
    """Return what was read back as a plan says it; where pieces have no names, one partition stands for them all."""
    flow = trace(table)
    return PlacementPlan(
        partitions=tuple(_partition(flow, nodes, sizes) for nodes in read.partitions),
        cpu=tuple(
            CpuNode(
                index=index,
                op=table.nodes[index].op,
                macs=table.macs(table.nodes[index], sizes),
                reason="the provider left it to the CPU",
            )
            for index in read.cpu
        ),
    )


def _partition(flow: Dataflow, nodes: tuple[int, ...], sizes: Sizes) -> Partition:
    table, inside = flow.table, set(nodes)
    read = {name for index in nodes for name in table.nodes[index].reads if name not in flow.constants}
    written = {
        name
        for index in nodes
        for name in table.nodes[index].outputs
        if name not in flow.constants
        and any(reader == OUTPUT or reader not in inside for reader in flow.consumers.get(name, ()))
    }
    return Partition(
        nodes=nodes,
        macs=sum(table.macs(table.nodes[index], sizes) for index in nodes),
        bytes_in=sum(_bytes(table, name, sizes) for name in read if flow.producer.get(name) not in inside),
        bytes_out=sum(_bytes(table, name, sizes) for name in written),
    )


def _bytes(table: NodeTable, name: str, sizes: Sizes) -> int:
    """Return the bytes of a tensor; 0 of one whose size only data decide."""
    try:
        return tensor_bytes(table.values[name], sizes)
    except (KeyError, ValueError):
        return 0


def _recorded(session: "InferenceSession") -> tuple[RanPiece, ...]:
    return tuple(
        RanPiece(piece.ep_name, tuple(Ran(node.name, node.op_type) for node in piece.get_nodes()))
        for piece in session.get_provider_graph_assignment_info()
    )


def _kernels(events: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Ran]]:
    """Yield provider and node of every node that a profiled run has computed, each once."""
    seen = set()
    for event in events:
        with contextlib.suppress(KeyError):
            name, arguments = event["name"], event["args"]
            if event["cat"] == "Node" and name.endswith(_KERNEL):
                kernel = (arguments["provider"], Ran(name[: -len(_KERNEL)], arguments["op_name"]))
                if kernel not in seen:
                    seen.add(kernel)
                    yield kernel
