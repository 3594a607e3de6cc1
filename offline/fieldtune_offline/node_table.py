"""NAME.nodes.json: what a graph computes, for a device that has no onnx package.

Format 1.0. Sizes are lists of factors, integers and expressions of symbolic dimensions ("batch*sequence"), whose
product is meant; ``macs`` counts multiply-accumulate operations of products and convolutions.
"""

import json
from typing import Any

import onnx_ir as ir

FORMAT_VERSION = "1.0"


def node_table(model: ir.Model) -> str:
    """Return the text of a graph's node table."""
    graph = model.graph
    values: dict[str, Any] = {}
    for value in (*graph.inputs, *graph.initializers.values(), *(out for node in graph for out in node.outputs)):
        entry: dict[str, Any] = {"dtype": _dtype(value), "shape": _shape(value)}
        if isinstance(value.const_value, ir.ExternalTensor):
            entry["bytes"] = value.const_value.length
        elif value.const_value is not None:
            entry["bytes"] = value.const_value.nbytes
        values[str(value.name)] = entry
    nodes = [
        {
            "name": node.name,
            "op": node.op_type,
            "module": node.metadata_props.get("module", ""),
            "inputs": [value.name if value else "" for value in node.inputs],
            "outputs": [value.name for value in node.outputs],
            "attributes": {name: attribute.value for name, attribute in node.attributes.items()},
            "macs": _macs(node),
            "quantization": None,
        }
        for node in graph
    ]
    table = {
        "format_version": FORMAT_VERSION,
        "graph": graph.name,
        "inputs": [value.name for value in graph.inputs],
        "outputs": [value.name for value in graph.outputs],
        "initializers": list(graph.initializers),
        "values": values,
        "nodes": nodes,
    }
    return json.dumps(table, separators=(",", ":")) + "\n"


def _dtype(value: ir.Value) -> str:
    assert value.dtype is not None
    return str(value.dtype.numpy())  # as the manifest has it: float32, int64, bool


def _shape(value: ir.Value) -> list[int | str]:
    assert value.shape is not None
    return [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape]


def _macs(node: ir.Node) -> list[int | str]:
    """Return the factors of a product's multiply-accumulate count; none for other operators."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return []
    left, right = node.inputs[:2]
    assert left is not None
    assert right is not None
    if node.op_type == "Conv":
        return [*_shape(node.outputs[0]), *_shape(right)[1:]]
    if node.op_type == "ConvTranspose":
        return [*_shape(left), *_shape(right)[1:]]
    inner = _shape(left)[0 if node.op_type == "Gemm" and node.attributes["transA"].as_int() else -1]
    return [*_shape(node.outputs[0]), inner]
