"""NAME.nodes.json: what a graph computes, for a device that has no onnx package.

``fieldtune.bundle.node_tables`` reads it. Sizes are lists of factors, integers and expressions of symbolic dimensions
("batch*sequence"), whose product is meant; ``macs`` counts multiply-accumulate operations of products and convolutions.
Any graph has a table, so that what is wrong with it can be told: a size that nothing is known of is ``UNKNOWN_SIZE``, a
shape of unknown rank ``UNKNOWN_SHAPE``, an unknown dtype ``UNKNOWN_DTYPE``.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import onnx_ir as ir

from fieldtune.bundle import UNKNOWN_DTYPE, UNKNOWN_SHAPE, UNKNOWN_SIZE, NodeTable, parse_node_table
from fieldtune.bundle.node_tables import FORMAT_VERSION
from fieldtune_offline.lowering.needed import captured

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_PACKED_PRODUCTS = ("MatMulBnb4", "MatMulNBits")
"""Of ONNX Runtime's own domain."""
_PLAIN_ATTRIBUTES = (
    ir.AttributeType.FLOAT,
    ir.AttributeType.FLOATS,
    ir.AttributeType.INT,
    ir.AttributeType.INTS,
    ir.AttributeType.STRING,
    ir.AttributeType.STRINGS,
)


def table_of(model: ir.Model) -> NodeTable:
    """Return a graph's node table as a device reads it."""
    return parse_node_table(node_table(model), Path(f"{model.graph.name}.nodes.json"))


def node_table(model: ir.Model) -> str:
    """Return the text of a graph's node table."""
    graph = model.graph
    values: dict[str, Any] = {}
    fed = {id(value) for value in graph.inputs}
    for value in (*graph.inputs, *graph.initializers.values(), *(out for node in graph for out in node.outputs)):
        if not value.name:  # an optional output that is left out
            continue
        entry: dict[str, Any] = {"dtype": _dtype(value), "shape": _shape(value)}
        if isinstance(value.const_value, ir.ExternalTensor):
            entry["bytes"] = value.const_value.length
        elif value.const_value is not None:
            entry["bytes"] = value.const_value.nbytes
            if value.const_value.size == 1:
                entry["value"] = _scalar(value.const_value)
        values[str(value.name)] = entry
    nodes = [
        {
            "name": node.name or "",
            "op": node.op_type,
            "module": node.metadata_props.get("module", ""),
            "inputs": [value.name if value else "" for value in node.inputs],
            "outputs": [value.name or "" for value in node.outputs],
            "attributes": {name: _attribute(attribute) for name, attribute in node.attributes.items()},
            "macs": multiply_accumulates(node),
            "quantization": _quantization(node, fed),
        }
        for node in graph
    ]
    table = {
        "format_version": FORMAT_VERSION,
        "graph": graph.name or "",
        "opset": model.opset_imports.get(""),
        "inputs": [value.name for value in graph.inputs],
        "outputs": [value.name for value in graph.outputs],
        "initializers": list(graph.initializers),
        "values": values,
        "nodes": nodes,
    }
    return json.dumps(table, separators=(",", ":")) + "\n"


def _attribute(attribute: ir.Attr) -> Any:
    """Return an attribute's value; of a graph what is in it, of a tensor its dtype and shape."""
    if attribute.type == ir.AttributeType.GRAPH:
        return _subgraph(attribute.as_graph())
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        return {"dtype": str(tensor.dtype), "shape": list(tensor.shape.numpy())}
    return attribute.value if attribute.type in _PLAIN_ATTRIBUTES else str(attribute.type)


def _subgraph(graph: ir.Graph) -> dict[str, list[str]]:
    """Return the operators of a branch or loop body and the values around it that they read."""
    names = dict.fromkeys(str(value.name) for value in captured(graph))
    return {"operators": [node.op_type for node in graph.all_nodes()], "captured": list(names)}


def _scalar(tensor: ir.TensorProtocol) -> float | int | bool | str:
    value: float | int | bool | str = tensor.numpy().reshape(()).item()
    # The item of a bfloat16 or 8-bit float is NumPy's, which JSON does not know.
    return value if isinstance(value, (float, int, bool, str)) else float(value)


def _quantization(node: ir.Node, fed: Collection[int]) -> dict[str, Any] | None:
    """Return the parameters of a QuantizeLinear or DequantizeLinear whose scale is a constant.

    One that can be fed, as the scales of packed matrices, is none.
    """
    if node.op_type not in _QUANTIZERS:
        return None
    _, scale, zero_point = (*node.inputs, None)[:3]
    if scale is None or scale.const_value is None or id(scale) in fed:
        return None
    scales = scale.const_value.numpy()
    zeros = None if zero_point is None or zero_point.const_value is None else zero_point.const_value.numpy()
    quantized = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    assert quantized is not None
    axis = node.attributes.get_int("axis", 1)
    return {
        "scale": scales.reshape(-1).astype("float64").tolist(),
        "zero_point": [0] * scales.size if zeros is None else zeros.reshape(-1).astype("int64").tolist(),
        "axis": None if scales.ndim == 0 else axis,
        "dtype": _dtype(quantized),
    }


def _dtype(value: ir.Value) -> str:
    # As the manifest has it: float32, int64, bool.
    return UNKNOWN_DTYPE if value.dtype is None else str(value.dtype.numpy())


def _shape(value: ir.Value) -> list[int | str]:
    if value.shape is None:
        return list(UNKNOWN_SHAPE)
    return [dim if isinstance(dim, int) else str(dim.value or UNKNOWN_SIZE) for dim in value.shape]


def multiply_accumulates(node: ir.Node) -> list[int | str]:
    """Return the factors of a product's multiply-accumulate count; none for other operators.

    A Scan has those of its body's products, in each round.
    """
    if node.op_type == "Scan":
        return _in_rounds(node)
    if node.op_type in _PACKED_PRODUCTS:  # its matrix lies in some packed form, and its columns are an attribute
        return [*_shape(node.outputs[0]), node.attributes["K"].as_int()]
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger", "MatMulIntegerToFloat"):
        return []
    left, right = node.inputs[:2]
    assert left is not None
    assert right is not None
    if node.op_type == "Conv":
        return [*_shape(node.outputs[0]), *_shape(right)[1:]]
    if node.op_type == "ConvTranspose":
        return [*_shape(left), *_shape(right)[1:]]
    transposed = node.op_type == "Gemm" and node.attributes.get_int("transA", 0) == 1
    inner = _shape(left)[0 if transposed else -1]
    return [*_shape(node.outputs[0]), inner]


def _in_rounds(scan: ir.Node) -> list[int | str]:
    body = scan.attributes["body"].as_graph()
    names: dict[str, str] = {}
    carried = len(scan.inputs) - scan.attributes["num_scan_inputs"].as_int()
    first = scan.inputs[carried]
    assert first is not None
    rounds = _shape(first)[0]
    for inner, outer in zip(body.inputs[carried:], scan.inputs[carried:], strict=True):
        assert outer is not None
        # The body has its own names for sizes that the graph around it works out.
        sizes = zip(_shape(inner), _shape(outer)[1:], strict=True)
        names |= {name: f"({size})" for name, size in sizes if isinstance(name, str)}
    counts = [multiply_accumulates(node) for node in body]
    terms = ["*".join(names.get(str(factor), str(factor)) for factor in factors) for factors in counts if factors]
    return [rounds, " + ".join(terms)] if terms else []
