import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from builders import tensor_spec
from fieldtune.errors import UnsupportedModel
from fieldtune_offline.graph import Graph
from fieldtune_offline.passes.split_at_logits import check_cut, split_at_logits

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(2, 3)).astype(np.float32)
X = tensor_spec("x", "batch", 3)
TARGET = tensor_spec("target", "batch", 2)
LOGITS = tensor_spec("logits", "batch", 2)
LOSS = tensor_spec("loss_sum")


def _value(spec):
    return ir.Value(name=spec.name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(spec.shape))


def _graph(name, *, with_loss):
    """logits = relu(x) Wᵀ, and their summed squared distance from a target."""
    x, target, weight = _value(X), _value(TARGET), ir.Value(name="w", shape=ir.Shape((2, 3)))
    weight.type, weight.const_value = ir.TensorType(ir.DataType.FLOAT), ir.tensor(WEIGHT, name="w")
    relu = ir.node("Relu", [x])
    product = ir.node("Gemm", [relu.outputs[0], weight], {"transB": 1})
    nodes, outputs = [relu, product], [(product.outputs[0], LOGITS)]
    if with_loss:
        off = ir.node("Sub", [product.outputs[0], target])
        loss = ir.node("ReduceSumSquare", [off.outputs[0]], {"keepdims": 0})
        nodes += [off, loss]
        outputs = [(loss.outputs[0], LOSS), *outputs]
    for index, node in enumerate(nodes):
        node.name = f"node_{index}"
        node.outputs[0].name, node.outputs[0].type = f"value_{index}", ir.TensorType(ir.DataType.FLOAT)
    for value, spec in outputs:
        value.name, value.shape = spec.name, ir.Shape(spec.shape)
    specs = (X, TARGET) if with_loss else (X,)
    inputs = [x, target] if with_loss else [x]
    graph = ir.Graph(
        inputs, [value for value, _ in outputs], nodes=nodes, initializers=[weight], opset_imports={"": 18}, name=name
    )
    return Graph(name, ir.Model(graph, ir_version=8), specs, tuple(spec for _, spec in outputs), (), {}, ())


def _run(graph, feeds):
    data = ir.to_proto(graph.model).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return dict(zip((spec.name for spec in graph.outputs), session.run(None, feeds), strict=True))


def test_the_whole_network_is_the_prefix():
    evaluation, inference = _graph("eval", with_loss=True), _graph("infer", with_loss=False)
    split = split_at_logits(evaluation, inference)
    prefix, behind_eval, behind_infer = split.graphs
    assert [graph.name for graph in split.graphs] == ["prefix", "suffix_eval", "suffix_infer"]
    assert split.spec.boundary == (tensor_spec("boundary_0", "batch", 2),)
    assert [node.op_type for node in prefix.model.graph] == ["Relu", "Gemm"]
    assert [node.op_type for node in behind_infer.model.graph] == ["Identity"]
    assert [spec.name for spec in behind_eval.inputs] == ["boundary_0", "target"]
    assert not behind_eval.model.graph.initializers
    feeds = {"x": RNG.normal(size=(4, 3)).astype(np.float32)}
    target = {"target": RNG.normal(size=(4, 2)).astype(np.float32)}
    boundary = _run(prefix, feeds)
    assert np.array_equal(_run(behind_infer, boundary)["logits"], _run(inference, feeds)["logits"])
    found, expected = _run(behind_eval, {**boundary, **target}), _run(evaluation, {**feeds, **target})
    assert np.array_equal(found["logits"], expected["logits"])
    assert np.array_equal(found["loss_sum"], expected["loss_sum"])


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (("batch", 3), 2, "text-generation cannot run on an accelerator"),
        ((4, 3), 1, r"this one takes x \(4, 3\)"),
        (("batch", "sequence"), 1, r"this one takes x \(batch, sequence\)"),
    ],
)
def test_graphs_that_no_accelerator_takes_are_refused(inputs, outputs, message):
    given = tensor_spec("x", *inputs, dtype="int64")
    with pytest.raises(UnsupportedModel, match=message):
        check_cut([given], [LOGITS] * outputs)
    check_cut([X], [LOGITS])
