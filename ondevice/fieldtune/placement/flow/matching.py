"""Which node of a node table each node of a session is, though ONNX Runtime fuses nodes and renames them."""

from collections.abc import Sequence

from fieldtune.bundle import NO_SIZES, NodeTable, Sizes
from fieldtune.placement.flow.dataflow import trace
from fieldtune.placement.flow.offload import PRODUCTS

_SEPARATORS = ("/", "_")
"""What stands between the name of a node and what is appended when it is fused: a/MatMulAddFusion, a_transformed."""


def match_nodes(table: NodeTable, nodes: Sequence[tuple[str, str]], sizes: Sizes = NO_SIZES) -> list[int | None]:
    """Find the nodes of a session in the node table of its graph.

    1. By name.
    2. Of what is left, nodes with multiply-accumulates: a MatMul and the Add behind it become a Gemm
       ``a/MatMulAddFusion`` (ONNX Runtime 1.17 and later), and what begins with a node's name was made of it.
    3. Of what is left, by operator: the same become ``gemm`` before. The largest goes to the first in line.

    Args:
        table: of the graph, as it was before ONNX Runtime rewrote it.
        nodes: name and operator of each node of the session, those first that are to have the largest in doubt.
        sizes: of the graph's symbolic dimensions.

    Returns:
        The index of each in the table; None for those that are not found, as what ONNX Runtime has added.
    """
    index = {node.name: number for number, node in enumerate(table.nodes) if node.name}
    matches = [index.get(name) for name, _ in nodes]
    seen = {number for number in matches if number is not None}
    free = [number for number in heavy_nodes(table, sizes) if number not in seen]
    for by_name in (True, False):
        for position, (name, op) in enumerate(nodes):
            if matches[position] is not None:
                continue
            made_of = [number for number in free if _is_made_of(op, table.nodes[number].op)]
            if by_name:
                made_of = [number for number in made_of if _begins(name, table.nodes[number].name)]
                made_of.sort(key=lambda number: -len(table.nodes[number].name))
            if made_of:
                matches[position] = made_of[0]
                free.remove(made_of[0])
    return matches


def heavy_nodes(table: NodeTable, sizes: Sizes = NO_SIZES) -> list[int]:
    """Return the indices of the nodes with multiply-accumulates that are not folded, the largest first."""
    flow = trace(table)
    macs = {number: table.macs(node, sizes) for number, node in enumerate(table.nodes) if not flow.is_folded(number)}
    return sorted((number for number in macs if macs[number]), key=lambda number: -macs[number])


def _is_made_of(op: str, original: str) -> bool:
    """Whether an operator can be what another one was fused into: FusedConv, QLinearConv, and Gemm for MatMul."""
    if original in PRODUCTS:
        return any(product in op for product in PRODUCTS)
    return op.endswith(original)


def _begins(name: str, original: str) -> bool:
    return bool(original) and name.startswith(original) and name[len(original) :].startswith(_SEPARATORS)
