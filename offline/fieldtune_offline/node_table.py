"""NAME.nodes.json: what a graph computes, for a device that has no onnx package.

``fieldtune.node_tables`` reads it. Sizes are lists of factors, integers and expressions of symbolic dimensions
("batch*sequence"), whose product is meant; ``macs`` counts multiply-accumulate operations of products and convolutions.
"""

import json
from typing import Any

import onnx_ir as ir

from fieldtune.node_tables import FORMAT_VERSION

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


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
            if value.const_value.size == 1:
                entry["value"] = value.const_value.numpy().reshape(()).item()
        values[str(value.name)] = entry
    nodes = [
        {
            "name": node.name,
            "op": node.op_type,
            "module": node.metadata_props.get("module", ""),
            "inputs": [value.name if value else "" for value in node.inputs],
            "outputs": [value.name for value in node.outputs],
            "attributes": {name: _attribute(attribute) for name, attribute in node.attributes.items()},
            "macs": _macs(node),
            "quantization": _quantization(node),
        }
        for node in graph
    ]
    table = {
        "format_version": FORMAT_VERSION,
        "graph": graph.name,
        "opset": model.opset_imports[""],
        "inputs": [value.name for value in graph.inputs],
        "outputs": [value.name for value in graph.outputs],
        "initializers": list(graph.initializers),
        "values": values,
        "nodes": nodes,
    }
    return json.dumps(table, separators=(",", ":")) + "\n"


def _attribute(attribute: ir.Attr) -> Any:
    """Return an attribute's value; of a graph the operators in it, of a tensor its dtype and shape."""
    if attribute.type == ir.AttributeType.GRAPH:
        return {"operators": [node.op_type for node in attribute.as_graph().all_nodes()]}
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        return {"dtype": str(tensor.dtype), "shape": list(tensor.shape.numpy())}
    return attribute.value


def _quantization(node: ir.Node) -> dict[str, Any] | None:
    """Return the parameters of a QuantizeLinear or DequantizeLinear whose scale is a constant."""
    if node.op_type not in _QUANTIZERS:
        return None
    _, scale, zero_point = (*node.inputs, None)[:3]
    if scale is None or scale.const_value is None:
        return None
    scales = scale.const_value.numpy()
    zeros = None if zero_point is None or zero_point.const_value is None else zero_point.const_value.numpy()
    quantized = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    assert quantized is not None
    axis = node.attributes.get_int("axis", 1)
    return {
        "scale": scales.reshape(-1).tolist(),
        "zero_point": [0] * scales.size if zeros is None else zeros.reshape(-1).tolist(),
        "axis": None if scales.ndim == 0 else axis,
        "dtype": _dtype(quantized),
    }


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
