"""The forward graph that ONNX Runtime differentiates: eval.onnx with the adapter as trainable initializers.

eval.onnx takes the adapter's matrices transposed, scaled, of any rank. Here they stand as PEFT stores them, because
these are the parameters that AdamW steps on, with a node or two between each and the place where it was fed. A loss
that eval.onnx computes in a loop, which has no gradient there, is computed at once.
"""

from pathlib import Path

import numpy as np
import onnx_ir as ir

from fieldtune.adapters import Adapter, adapted_modules, method_named, to_theta
from fieldtune.bundle import Manifest, ParameterSpec
from fieldtune.errors import UnsupportedModel
from fieldtune_offline.passes.inline_scans import inline_scans

LOSS = "loss"
_PROTOBUF_LIMIT = 2**31 - 2**26
"""ONNX Runtime's tool takes a model in one protobuf message, which ends at 2 GiB; the graph itself needs some of it."""


def forward_model(root: Path, manifest: Manifest, adapter: Adapter) -> ir.Model:
    """Return batch → loss (mean over the labels) and eval.onnx's further outputs, weights included.

    Args:
        root: folder of the bundle.
        manifest: of it.
        adapter: the parameters' first values, at the bundle's own rank.

    Raises:
        AdapterMismatch: the bundle cannot train this adapter.
        UnsupportedModel: too large for ONNX Runtime's tool.
    """
    model = ir.load(root / manifest.graphs["eval"].path)
    graph = model.graph
    inline_scans(graph)
    values = manifest.layout.views(to_theta(adapter, manifest))
    scale = method_named(manifest.method).scales(adapter, adapted_modules(manifest))
    front: list[ir.Node] = []
    for parameter in manifest.layout.parameters:
        fed = next(value for value in graph.inputs if value.name == parameter.key)
        graph.inputs.remove(fed)
        graph.initializers.pop(parameter.key, None)
        fed.name = f"{parameter.key}.fed"
        held = _initializer(parameter.key, values[parameter.key])
        graph.register_initializer(held)
        factor = scale[parameter.module] if parameter.scaled else 1.0
        nodes = _nodes(held, parameter, factor, manifest.layout.rank, graph)
        ir.convenience.replace_all_uses_with(fed, nodes[-1].outputs[0] if nodes else held)
        front += nodes
    graph.insert_before(graph[0], front)
    _complete(graph, {parameter.key for parameter in manifest.layout.parameters})
    weights = sum(value.const_value.nbytes for value in graph.initializers.values() if value.const_value is not None)
    if weights > _PROTOBUF_LIMIT:
        raise UnsupportedModel(
            f"{manifest.base.id}: {weights / 1e9:.1f} GB of weights; ONNX Runtime's tool for the official artifacts "
            f"takes up to {_PROTOBUF_LIMIT / 1e9:.1f} GB: train this model with the portable backend"
        )
    ir.external_data.load_to_model(model)
    return model


def frozen_parameters(model: ir.Model, manifest: Manifest) -> list[str]:
    """Return the initializers that are the base's weights: those that the checkpoint holds, once for both graphs.

    Small ones and integers stay in the graphs: they are constants, and shapes may be folded from them.
    """
    trained = {parameter.key for parameter in manifest.layout.parameters}
    return [
        name
        for name, value in model.graph.initializers.items()
        if name not in trained
        and value.dtype == ir.DataType.FLOAT
        and value.const_value is not None
        and value.const_value.size > 64
    ]


def _nodes(held: ir.Value, parameter: ParameterSpec, factor: float, rank: int, graph: ir.Graph) -> list[ir.Node]:
    """Return what makes of a parameter what eval.onnx was fed: padded to the largest rank, transposed, scaled."""
    nodes: list[ir.Node] = []
    value = held
    axis = parameter.rank_axis
    if axis is not None and parameter.shape[axis] < rank:
        pads = np.zeros(2 * len(parameter.shape), np.int64)
        pads[len(parameter.shape) + axis] = rank - parameter.shape[axis]
        widths = _initializer(f"{parameter.key}.pads", pads)
        graph.register_initializer(widths)
        nodes.append(ir.node("Pad", [value, widths], name=f"{parameter.key}.Pad"))
        value = nodes[-1].outputs[0]
    if parameter.transposed:
        nodes.append(ir.node("Transpose", [value], {"perm": [1, 0]}, name=f"{parameter.key}.Transpose"))
        value = nodes[-1].outputs[0]
    if factor != 1.0:
        scale = _initializer(f"{parameter.key}.scale", np.array(factor, np.float32))
        graph.register_initializer(scale)
        nodes.append(ir.node("Mul", [value, scale], name=f"{parameter.key}.Mul"))
    for node in nodes:
        node.outputs[0].name = f"{node.name}.out"
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    return nodes


def _complete(graph: ir.Graph, trained: set[str]) -> None:
    """Make the mean loss the first output, and the graph what the gradient builder takes."""
    outputs = {str(value.name): value for value in graph.outputs}
    mean = ir.node("Div", [outputs.pop("loss_sum"), outputs.pop("weight")], name="mean_loss")
    loss = mean.outputs[0]
    loss.name, loss.type, loss.shape = LOSS, ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
    graph.append(mean)
    graph.outputs[:] = [loss, *outputs.values()]
    kept = {id(value) for value in (*graph.inputs, *graph.outputs)}
    for node in list(graph):
        if node.op_type == "LayerNormalization":
            _write_out(node, graph)
        if node.op_type == "BatchNormalization":
            _unfold(node, graph, trained)
        for value in node.outputs:
            if id(value) not in kept:
                value.shape = None  # the symbolic rank is in some of them, and the rank is a number now


def _write_out(node: ir.Node, graph: ir.Graph) -> None:
    """Name what a LayerNormalization may leave out, and its gradient reads: bias, mean and inverse deviation."""
    scale = node.inputs[1]
    if len(node.inputs) < 3:
        assert scale is not None
        assert scale.const_value is not None
        bias = _initializer(f"{node.name}.bias", np.zeros(scale.const_value.shape.numpy(), np.float32))
        graph.register_initializer(bias)
        node.resize_inputs(3)
        node.replace_input_with(2, bias)
    if len(node.outputs) < 3:
        node.resize_outputs(3)
        for number, name in ((1, "mean"), (2, "inv_std_dev")):
            node.outputs[number].name = f"{node.name}.{name}"
            node.outputs[number].type = ir.TensorType(ir.DataType.FLOAT)


def _unfold(node: ir.Node, graph: ir.Graph, trained: set[str]) -> None:
    """Write a BatchNormalization with frozen statistics as a product and a sum.

    The gradient that ONNX Runtime has of it is that of training, with the batch's own statistics.
    """
    x, *held = node.inputs
    values = [value.const_value.numpy() for value in held if value is not None and value.const_value is not None]
    if len(values) < 4 or any(value is not None and value.name in trained for value in held):
        raise UnsupportedModel(f"{node.name}: a batch normalization that is trained has no official artifacts")
    scale, bias, mean, variance = (value.astype(np.float64) for value in values)
    epsilon = node.attributes["epsilon"].as_float()
    factor = scale / np.sqrt(variance + epsilon)
    shape = (-1, 1, 1)
    terms = []
    for name, array in (("factor", factor), ("offset", bias - mean * factor)):
        terms.append(_initializer(f"{node.name}.{name}", array.astype(np.float32).reshape(shape)))
        graph.register_initializer(terms[-1])
    product = ir.node("Mul", [x, terms[0]], name=f"{node.name}.Mul")
    result = ir.node("Add", [product.outputs[0], terms[1]], name=f"{node.name}.Add")
    for made in (product, result):
        made.outputs[0].name, made.outputs[0].type = f"{made.name}.out", ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(node, [product, result])
    ir.convenience.replace_all_uses_with(node.outputs[0], result.outputs[0])
    graph.remove(node, safe=True)


def _initializer(name: str, values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> ir.Value:
    tensor = ir.tensor(np.ascontiguousarray(values).reshape(values.shape), name=name)
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(values.shape), const_value=tensor)
