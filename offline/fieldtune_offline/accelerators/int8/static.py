"""A float32 graph as an accelerator's compiler wants it: sizes known, constants folded, attributes written out."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx_ir.passes import common as passes

from fieldtune.errors import UnsupportedModel
from fieldtune.placement import DEQUANTIZE, QUANTIZE
from fieldtune_offline.accelerators.int8.opsets import as_global_pooling

_LOG_ERRORS = 3
_FOLDED = "ConvBnFusion_W_", "ConvBnFusion_BN_B_", "ConvMulFusion_W_", "ConvAddFusion_Add_B_"
"""What ONNX Runtime puts before the name of a weight that it has folded something into."""
_WINDOWED = ("Conv", "ConvTranspose", "MaxPool", "AveragePool")


def static_model(model: ir.Model, sizes: Mapping[str, int]) -> ir.Model:
    """Return the graph for one set of sizes, simplified by ONNX Runtime's basic optimizations.

    Batch normalization is folded into the convolution before it, what depends on constants and shapes alone is
    computed, and means over all pixels become GlobalAveragePool. Names of what is left stay as they are.

    Args:
        model: float32; it is left as it is.
        sizes: of its symbolic dimensions.

    Raises:
        UnsupportedModel: a symbolic dimension without a size, or a size that stays unknown.
    """
    model = model.clone()
    for value in model.graph.inputs:
        value.shape = ir.Shape([_size(dim, sizes, value) for dim in value.shape or ()])
    for node in model.graph.all_nodes():
        for value in node.outputs:
            value.shape = None
    for value in model.graph.outputs:
        value.shape = None
    simplified = _simplified(model)
    _infer_shapes(simplified)
    _separate_additions(simplified)
    as_global_pooling(simplified)
    passes.AddDefaultAttributesPass()(simplified)
    finish(simplified)
    return simplified


def finish(model: ir.Model) -> None:
    """Write out what a compiler must not have to guess: shapes, attributes, names; drop what nothing uses.

    Raises:
        UnsupportedModel: the shape of a tensor is not known.
    """
    for node in model.graph:
        if node.op_type in (QUANTIZE, DEQUANTIZE):
            _write_scalars(node)
    _infer_shapes(model)
    opset = model.opset_imports[""]
    for node in model.graph:
        if node.op_type in _WINDOWED:
            _write_window(node, opset)
    ir.passes.Sequential(
        passes.RemoveUnusedNodesPass(),
        passes.NameFixPass(),
    )(model)
    model.opset_imports.clear()
    model.opset_imports.update({"": opset} | {node.domain: 1 for node in model.graph if node.domain})


def _infer_shapes(model: ir.Model) -> None:
    """Fill in shape and dtype of every value.

    Raises:
        UnsupportedModel: one stays unknown.
    """
    passes.ShapeInferencePass(strict_mode=False, data_prop=True)(model)
    for node in model.graph:
        for value in node.outputs:
            if value.shape is None or value.dtype is None or not all(isinstance(dim, int) for dim in value.shape):
                raise UnsupportedModel(
                    f"{node.op_type} {node.name}: the shape of its output {value.name} depends on data "
                    f"({value.shape}); an accelerator needs every size beforehand"
                )


def _size(dim: int | ir.SymbolicDim, sizes: Mapping[str, int], value: ir.Value) -> int:
    if isinstance(dim, int):
        return dim
    if str(dim.value) not in sizes:
        raise UnsupportedModel(f"input {value.name}: dimension {dim.value} has no size, and an accelerator needs one")
    return sizes[str(dim.value)]


def _simplified(model: ir.Model) -> ir.Model:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = _LOG_ERRORS
    ir.external_data.load_to_model(model)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source.onnx"), Path(folder, "target.onnx")
        ir.save(model, source)
        options.optimized_model_filepath = str(target)
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        simplified = ir.load(target)
        ir.external_data.load_to_model(simplified)
    simplified.graph.name = model.graph.name
    simplified.ir_version = model.ir_version or onnx.IR_VERSION
    simplified.producer_name, simplified.producer_version = "fieldtune", None
    for value in list(simplified.graph.initializers.values()):
        _restore_name(value, simplified)
    return simplified


def _restore_name(value: ir.Value, model: ir.Model) -> None:
    name = str(value.name)
    while prefix := next((prefix for prefix in _FOLDED if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    if name != value.name and name not in model.graph.initializers:
        value.name = name


def _separate_additions(model: ir.Model) -> None:
    """Undo what ONNX Runtime did to a product and the addition of an activation: a Gemm whose bias is computed."""
    for node in list(model.graph):
        if node.op_type != "Gemm" or len(node.inputs) < 3 or node.inputs[2] is None:
            continue
        addend, result = node.inputs[2], node.outputs[0]
        if addend.const_value is not None or node.attributes.get_float("beta", 1.0) != 1:
            continue
        product = ir.node("Gemm", node.inputs[:2], node.attributes)
        product.outputs[0].name = f"{result.name}.product"
        addition = ir.node("Add", [product.outputs[0], addend])
        new = addition.outputs[0]
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [product, addition], [result], [new])
        new.name = result.name


def _write_scalars(node: ir.Node) -> None:
    """Make a scale and zero point of one element scalars: as vectors they would mean one for each channel."""
    for value in node.inputs[1:]:
        constant = None if value is None else value.const_value
        if value is not None and constant is not None and constant.size == 1 and len(constant.shape):
            value.const_value = ir.tensor(constant.numpy().reshape(()), name=value.name)
            value.shape = ir.Shape(())


def _write_window(node: ir.Node, opset: int) -> None:
    """Write kernel_shape, strides, dilations and pads out; a compiler that misses one of them aborts."""
    data = node.inputs[0]
    assert data is not None
    assert data.shape is not None
    if "kernel_shape" in node.attributes:
        kernel = node.attributes["kernel_shape"].as_ints()
    else:
        weight = node.inputs[1]
        assert weight is not None
        assert weight.shape is not None
        kernel = tuple(int(size) for size in weight.shape.numpy()[2:])
    ones = (1,) * len(kernel)
    strides = node.attributes.get_ints("strides", ones)
    dilations = node.attributes.get_ints("dilations", ones)
    pads = node.attributes.get_ints("pads")
    automatic = node.attributes.get_string("auto_pad", "NOTSET")
    if automatic.startswith("SAME"):
        if node.op_type == "ConvTranspose":
            raise UnsupportedModel(
                f"ConvTranspose {node.name}: auto_pad {automatic} is not supported; write its pads out"
            )
        pads = _same_pads(data.shape.numpy()[2:], kernel, strides, dilations, upper=automatic == "SAME_UPPER")
    written = {
        "kernel_shape": kernel,
        "strides": strides,
        "dilations": dilations,
        "pads": pads or (0,) * 2 * len(kernel),
    }
    known = onnx.defs.get_schema(node.op_type, opset).attributes  # AveragePool has dilations from opset 19 on
    for name, values in written.items():
        if name in known:
            node.attributes[name] = ir.AttrInt64s(name, values)
    node.attributes["auto_pad"] = ir.AttrString("auto_pad", "NOTSET")
    if node.op_type in ("Conv", "ConvTranspose"):
        node.attributes["group"] = ir.AttrInt64("group", node.attributes.get_int("group", 1))


def _same_pads(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], *, upper: bool
) -> list[int]:
    """Return ONNX's pads (all begins, then all ends) with which the output has ⌈size / stride⌉ pixels."""
    begins, ends = [], []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
        begins.append(total // 2 if upper else total - total // 2)
        ends.append(total - begins[-1])
    return [*begins, *ends]
