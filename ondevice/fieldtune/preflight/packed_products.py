"""Products with packed matrices, by the operators of a node table: what they unpack, take and multiply.

Nothing here knows a precision of the base by its name: a new one is known by its operators.
"""

from fieldtune.bundle import Node, NodeTable, product

_BYTES = ("int8", "uint8")
_UNPACKED_WHOLE = "MatMulBnb4"
"""Unpacks the whole matrix into a buffer of its own before it multiplies."""
_UNPACKED_IN_PARTS = "MatMulNBits"
"""Unpacks a few columns at a time where its weights are prepacked; else as the one above does."""


def multiplies_integers(table: NodeTable, node: Node) -> bool:
    """Return whether a node is a product of two tensors of bytes."""
    return bool(node.macs) and all(table.values[name].dtype in _BYTES for name in node.inputs[:2])


def unpacked_weights(table: NodeTable, node: Node, *, prepacking: bool) -> int:
    """Return how many weights a node makes floats of in each run; 0 for other nodes."""
    # What quantizes activations has parameters that are constants, and the table tells them.
    if node.op == "DequantizeLinear" and node.quantization is None and _is_static(table, node.outputs[0]):
        return product(table.values[node.outputs[0]].shape)
    return unpacked_inside(table, node, prepacking=prepacking)


def unpacked_inside(table: NodeTable, node: Node, *, prepacking: bool) -> int:
    """Return how many weights a product unpacks into a buffer of its own; 0 for other nodes."""
    held = prepacking and node.inputs[1:2] and node.inputs[1] not in table.inputs
    if node.op == _UNPACKED_WHOLE or (node.op == _UNPACKED_IN_PARTS and not held):
        columns, rows = node.attributes.get("K"), node.attributes.get("N")
        return columns * rows if isinstance(columns, int) and isinstance(rows, int) else 0
    return 0


def _is_static(table: NodeTable, name: str) -> bool:
    return all(isinstance(size, int) for size in table.values[name].shape)
