"""Fingerprints: what a value computes, as a digest that is the same in every graph that computes it so.

A digest is over the operator, its attributes and the digests of its inputs; it begins at the names of inputs and
weights and at the bytes of constants. So a value of the training graph is found again in the inference graph.
"""

import hashlib

import onnx_ir as ir

from fieldtune_offline.weights import is_lifted_constant


def fingerprints(graph: ir.Graph) -> dict[int, str]:
    """Return the id of each value → its digest."""
    digests: dict[int, str] = {id(value): _digest("input", str(value.name)) for value in graph.inputs}
    for value in graph.initializers.values():
        if id(value) not in digests:
            digests[id(value)] = _constant(value)
    for node in graph:
        inputs = ["" if value is None else digests[id(value)] for value in node.inputs]
        attributes = [f"{name}={attribute.value!r}" for name, attribute in sorted(node.attributes.items())]
        for index, value in enumerate(node.outputs):
            digests[id(value)] = _digest(node.domain, node.op_type, *attributes, *inputs, str(index))
    return digests


def _constant(value: ir.Value) -> str:
    held = value.const_value
    # A weight of the checkpoint is known by its name, whether its bytes are bound already or not.
    if held is None or isinstance(held, ir.ExternalTensor) or is_lifted_constant(str(value.name)):
        return _digest("weight", str(value.name))
    return _digest("constant", str(held.dtype), str(held.shape), hashlib.sha256(held.tobytes()).hexdigest())


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
