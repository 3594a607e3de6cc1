"""Which operators are quantized: those that the accelerator takes, where that spares a way to the CPU."""

from typing import get_args

from fieldtune.bundle import Node
from fieldtune.hardware import Accelerator, Activation
from fieldtune.placement import (
    ACTIVATIONS,
    CONVOLUTIONS,
    HEAVY,
    OUTPUT,
    PRODUCTS,
    Dataflow,
    activation_name,
    data_inputs,
    left_by_kind,
)

_FUSES = (*CONVOLUTIONS, *PRODUCTS, "Add")
"""Behind these an activation is computed in the same go."""
LEAKY_RELU_ALPHA = 26 / 256
"""Slope of the leaky ReLU where an accelerator's description has none: that of DPUs."""


def accelerated_nodes(flow: Dataflow, accelerator: Accelerator) -> frozenset[int]:
    """Return the operators of a float32 graph to quantize, as indices in its node table.

    Convolutions and products with constant weights, and pools, wherever they are. Of the operators that are cheap by
    themselves, those whose inputs all come from accelerated operators or from outside, and whose result one of them or
    the outside takes: in float32 beside an operator that the CPU runs they cost nothing and lose nothing.
    """
    nodes = flow.table.nodes
    taken = {index for index, node in enumerate(nodes) if _can_be(flow, index, node, accelerator)}
    while True:
        left = {index for index in taken if nodes[index].op not in HEAVY and not _is_surrounded(flow, index, taken)}
        if not left:
            return frozenset(taken)
        taken -= left


def fused_activation(flow: Dataflow, index: int, taken: frozenset[int]) -> int | None:
    """Return the activation that is computed in the same go as an operator, whose own result is then never stored."""
    node = flow.table.nodes[index]
    readers = flow.consumers.get(node.outputs[0], ())
    if node.op not in _FUSES or len(readers) != 1 or readers[0] not in taken:
        return None
    follower = flow.table.nodes[readers[0]]
    if follower.op not in ACTIVATIONS or (
        node.op == "Add" and activation_name(flow.table, follower, LEAKY_RELU_ALPHA) != "relu"
    ):
        return None
    return readers[0]


def _can_be(flow: Dataflow, index: int, node: Node, accelerator: Accelerator) -> bool:
    if not flow.is_operator(index) or left_by_kind(flow, node, accelerator):
        return False
    if node.op == "Gemm":
        scales = (node.attributes.get(name, 1.0) for name in ("alpha", "beta"))
        return all(scale == 1 for scale in scales) and not node.attributes.get("transA", 0)
    if node.op in ACTIVATIONS:
        limits = accelerator.limits
        known = get_args(Activation) if limits is None else limits.activations
        return (
            activation_name(flow.table, node, LEAKY_RELU_ALPHA if limits is None else limits.leaky_relu_alpha) in known
        )
    return flow.table.values[node.outputs[0]].dtype == "float32"


def _is_surrounded(flow: Dataflow, index: int, taken: set[int]) -> bool:
    node = flow.table.nodes[index]
    data = [name for name in data_inputs(node) if name not in flow.constants]
    before = all(name in flow.table.inputs or flow.producer.get(name) in taken for name in data)
    behind = (reader for name in node.outputs for reader in flow.consumers.get(name, ()))
    return bool(data) and before and any(reader == OUTPUT or reader in taken for reader in behind)
