"""plan_placement: which nodes an accelerator's compiler takes, in which pieces, and what crosses to the CPU.

From the node table alone. Where a QuantizeLinear or DequantizeLinear belongs:

* Weights are dequantized where they are used, and the result of an operator is quantized where it is computed.
* What a partition reads is dequantized in it, and what it writes leaves it quantized. So the QuantizeLinear of what the
  CPU makes for the accelerator, the one behind the graph's input among them, and the DequantizeLinear of what the CPU
  reads, the graph's output among it, run on the CPU, and eight bits a number cross the boundary: "the output of DPU
  subgraph is int8 … fix2float … in CPU subgraph" (an AMD engineer, Xilinx/Vitis-AI#821).
* A DequantizeLinear that several sides read, each of which has its own, is counted where what it reads is made. So no
  path leads from a partition through other nodes back into it, whatever is counted where.

Partitions are connected: operators that only share an input, as query, key and value do, are one partition each. A
compiler may put them together; then there are fewer than planned.
"""

import collections
import dataclasses
from collections.abc import Mapping

from fieldtune.bundle import NodeTable, tensor_bytes
from fieldtune.hardware import Accelerator
from fieldtune.placement.flow import (
    DEQUANTIZE,
    HEAVY,
    LONELY,
    OUTPUT,
    QUANTIZE,
    Dataflow,
    convex_groups,
    left_to_cpu,
    trace,
)

OPERATIONS_OF_A_MAC = 2
"""A multiplication and an addition, as peak rates count them."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """One piece that is compiled for the accelerator and runs in one go.

    Attributes:
        nodes: indices in the node table, in their order.
        macs: multiply-accumulate operations of one run.
        bytes_in: read from the CPU, or from another partition by way of it, in one run; weights are not.
        bytes_out: handed to the CPU in one run.
    """

    nodes: tuple[int, ...]
    macs: int
    bytes_in: int
    bytes_out: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CpuNode:
    """A node that the CPU runs.

    Attributes:
        index: in the node table.
        op: ONNX's name of the operator.
        macs: multiply-accumulate operations of one run.
        reason: why the accelerator does not, in words.
    """

    index: int
    op: str
    macs: int
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlacementPlan:
    """Where each node of a graph would run.

    Attributes:
        partitions: on the accelerator, by their first node.
        cpu: every other node, in the order of the table.
    """

    partitions: tuple[Partition, ...]
    cpu: tuple[CpuNode, ...]

    @property
    def accelerator_nodes(self) -> int:
        """How many nodes the accelerator runs."""
        return sum(len(partition.nodes) for partition in self.partitions)

    @property
    def accelerator_macs(self) -> int:
        """Multiply-accumulate operations of one run on the accelerator."""
        return sum(partition.macs for partition in self.partitions)

    @property
    def cpu_nodes(self) -> int:
        """How many nodes the CPU runs."""
        return len(self.cpu)

    @property
    def cpu_macs(self) -> int:
        """Multiply-accumulate operations of one run on the CPU."""
        return sum(node.macs for node in self.cpu)

    @property
    def boundary_bytes(self) -> int:
        """Bytes that cross between accelerator and CPU in one run; what two partitions read crosses twice."""
        return sum(partition.bytes_in + partition.bytes_out for partition in self.partitions)

    @property
    def cpu_operators(self) -> Mapping[str, int]:
        """ONNX operator → how many of them the CPU runs, the most frequent first."""
        return dict(collections.Counter(node.op for node in self.cpu).most_common())

    @property
    def offload(self) -> float:
        """The share, 0 to 1, of multiply-accumulates on the accelerator; 0 where there are none."""
        total = self.accelerator_macs + self.cpu_macs
        return self.accelerator_macs / total if total else 0.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sides:
    """Which side each node is on, before anything is counted.

    Attributes:
        partitions: indices of the nodes of each partition.
        reasons: index of every other node → why the CPU runs it.
    """

    partitions: tuple[tuple[int, ...], ...]
    reasons: Mapping[int, str]


def plan_placement(table: NodeTable, accelerator: Accelerator) -> PlacementPlan:
    """Return where each node of a graph would run.

    Args:
        table: of a graph with static shapes.
        accelerator: of the profile.

    Raises:
        KeyError: a symbolic dimension; ``rules.check_rules`` refuses such a graph in words.
        ValueError: a dimension that nothing is known of.
    """
    flow = trace(table)
    sides = assign_sides(flow, accelerator)
    return PlacementPlan(
        partitions=tuple(_partition(flow, nodes) for nodes in sides.partitions),
        cpu=tuple(
            CpuNode(index=index, op=node.op, macs=table.macs(node), reason=sides.reasons[index])
            for index, node in enumerate(table.nodes)
            if index in sides.reasons
        ),
    )


def estimate_run_s(macs: int, accelerator: Accelerator) -> float | None:
    """Return how long one run takes at the accelerator's peak rate: a bound, which no real run reaches.

    Args:
        macs: of the partitions in one run, which computes the profile's whole batch.
        accelerator: of the profile.

    Returns:
        Seconds, 2 · macs / peak rate; None where the profile states no peak rate.
    """
    if accelerator.peak_tops is None:
        return None
    return OPERATIONS_OF_A_MAC * macs / (accelerator.peak_tops * 1e12)


def assign_sides(flow: Dataflow, accelerator: Accelerator) -> Sides:
    """Return which nodes the accelerator's compiler takes and which it leaves; shapes may be dynamic."""
    nodes = flow.table.nodes
    reasons = dict(left_to_cpu(flow, accelerator))
    operators = {index for index in range(len(nodes)) if flow.is_operator(index)}
    successors: list[set[int]] = [set() for _ in nodes]
    for index in operators:
        for name in nodes[index].reads:
            before = flow.operator_before(name)
            if before is not None:
                successors[before].add(index)
    partition: dict[int, int] = {}  # index of a node → number of its partition
    for group in convex_groups(successors, operators - reasons.keys()):
        if any(nodes[index].op in HEAVY for index in group):
            number = len(set(partition.values()))
            partition.update(dict.fromkeys(group, number))
        else:
            reasons.update(dict.fromkeys(group, LONELY))
    _place_the_rest(flow, partition, reasons)
    members: dict[int, list[int]] = {}
    for index in sorted(partition):
        members.setdefault(partition[index], []).append(index)
    return Sides(partitions=tuple(tuple(indices) for _, indices in sorted(members.items())), reasons=reasons)


def _place_the_rest(flow: Dataflow, partition: dict[int, int], reasons: dict[int, str]) -> None:
    """Place quantizations and constants beside the operators that they are for; from the last node to the first."""
    for index in range(len(flow.table.nodes) - 1, -1, -1):
        if flow.is_operator(index):
            continue
        number = _beside(flow, index, partition)
        if number is not None:
            partition[index] = number
        elif flow.table.nodes[index].op == QUANTIZE:
            reasons[index] = "quantizes what the CPU computes or is fed"
        elif flow.table.nodes[index].op == DEQUANTIZE:
            reasons[index] = "dequantizes what the CPU reads"
        else:
            reasons[index] = "a constant that the CPU reads"


def _beside(flow: Dataflow, index: int, partition: Mapping[int, int]) -> int | None:
    """Return the partition that a quantization or constant belongs to; None for the CPU."""
    node = flow.table.nodes[index]
    if node.op != QUANTIZE or flow.is_folded(index):
        readers = (reader for name in node.outputs for reader in flow.consumers.get(name, ()))
        numbers = list(dict.fromkeys(partition.get(reader) for reader in readers))
        if len(numbers) == 1:
            return numbers[0]
        if all(name in flow.constants for name in node.outputs):
            return next((number for number in numbers if number is not None), None)
    before = flow.operator_before(node.inputs[0])
    return None if before is None else partition.get(before)


def _partition(flow: Dataflow, nodes: tuple[int, ...]) -> Partition:
    table, inside = flow.table, set(nodes)
    read = {
        flow.carried(name)
        for index in nodes
        if table.nodes[index].op != DEQUANTIZE
        for name in table.nodes[index].reads
        if name not in flow.constants
    }
    # What is dequantized at the edge crosses quantized, so that it is the quantized tensor that is counted.
    written = {
        name
        for index in nodes
        if table.nodes[index].op != DEQUANTIZE
        for name in table.nodes[index].outputs
        if name not in flow.constants and any(reader == OUTPUT or reader not in inside for reader in flow.readers(name))
    }
    return Partition(
        nodes=nodes,
        macs=sum(table.macs(table.nodes[index]) for index in nodes),
        bytes_in=sum(tensor_bytes(table.values[name]) for name in read if flow.producer.get(name) not in inside),
        bytes_out=sum(tensor_bytes(table.values[name]) for name in written),
    )
