"""The frozen part cut off once for all graphs: prefix and suffix together compute what each graph computes."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from builders import tensor_spec
from fieldtune.errors import UnsupportedModel
from fieldtune_offline.graph import Graph
from fieldtune_offline.passes.split_prefix import extract, split_prefix

DRAW = np.random.default_rng(0)
W1 = DRAW.standard_normal((64, 32)).astype(np.float32)
X = tensor_spec("x", "batch", 64)
THETA = tensor_spec("theta", 32)
A = tensor_spec("a", 32)
LOSS, LOGITS, GRAD = tensor_spec("loss_sum"), tensor_spec("logits", "batch", 32), tensor_spec("grad_sum", 32)

# What is frozen is relu(x · w1); the adapter scales its channels.
FROZEN = "p = MatMul(x, w1) h = Relu(p)"
GRADIENT = f"""gradient (float[batch,64] x, float[32] theta) => (float loss_sum, float[32] grad_sum) {{
    {FROZEN} s = Mul(h, theta) loss_sum = ReduceSum<keepdims=0>(s)
    grad_sum = ReduceSum<keepdims=0>(h, first)
}}"""
EVAL = f"""eval (float[batch,64] x, float[32] a) => (float loss_sum, float[batch,32] logits) {{
    {FROZEN} logits = Mul(h, a) loss_sum = ReduceSum<keepdims=0>(logits)
}}"""
INFER = f"infer (float[batch,64] x, float[32] a) => (float[batch,32] logits) {{ {FROZEN} logits = Mul(h, a) }}"


@pytest.fixture
def made():
    """The function from a graph's text and its parts to the graph, its weight w1 not bound yet."""

    def build(text, outputs, *, adapter=(), inputs=(X,)):
        model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]> {text}')
        model.graph.initializer.append(onnx.numpy_helper.from_array(W1, "w1"))
        if "first" in text:
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0], np.int64), "first"))
        model = onnx.shape_inference.infer_shapes(model)
        parsed = ir.from_proto(model)
        weight = parsed.graph.initializers["w1"]
        weight.const_value = None
        name = parsed.graph.name
        return Graph(name, parsed, inputs, outputs, adapter, {"w1": torch.from_numpy(W1)}, (weight,))

    return build


@pytest.fixture
def run():
    """The function that binds a graph's weights and runs it."""

    def compute(graph, feeds):
        for value in graph.unbound:
            value.const_value = ir.tensor(graph.weights[value.name].numpy(), name=value.name)
        data = ir.to_proto(graph.model).SerializeToString()
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        names = [spec.name for spec in graph.outputs]
        given = {spec.name for spec in (*graph.inputs, *graph.adapter_inputs)}
        assert given == {value.name for value in session.get_inputs()}
        return dict(zip(names, session.run(names, {name: feeds[name] for name in given}), strict=True))

    return compute


@pytest.fixture
def graphs(made):
    """The three graphs of a bundle."""
    return (
        made(GRADIENT, (LOSS, GRAD), inputs=(X, THETA)),
        made(EVAL, (LOSS, LOGITS), adapter=(A,)),
        made(INFER, (LOGITS,), adapter=(A,)),
    )


def test_prefix_and_suffix_compute_what_the_whole_graph_computes(graphs, run):
    split = split_prefix(graphs[0], graphs[1:])
    assert split.spec.boundary == (tensor_spec("boundary_0", "batch", 32),)
    prefix, *suffixes = split.graphs
    assert [graph.name for graph in split.graphs] == ["prefix", "suffix_gradient", "suffix_eval", "suffix_infer"]
    feeds = {
        "x": DRAW.standard_normal((5, 64)).astype(np.float32),
        "theta": DRAW.standard_normal(32).astype(np.float32),
        "a": DRAW.standard_normal(32).astype(np.float32),
    }
    boundary = run(prefix, feeds)
    for whole, suffix in zip(graphs, suffixes, strict=True):
        expected, found = run(whole, feeds), run(suffix, {**feeds, **boundary})
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_frozen_weights_are_the_prefixs_alone_and_the_whole_graphs_stay(graphs):
    before = [len(graph.model.graph) for graph in graphs]
    prefix, *suffixes = split_prefix(graphs[0], graphs[1:]).graphs
    assert set(prefix.weights) == {"w1"}
    assert [value.name for value in prefix.unbound] == ["w1"]
    assert all(not suffix.weights and not suffix.unbound for suffix in suffixes)
    assert [spec.name for spec in prefix.inputs] == ["x"]
    assert prefix.adapter_inputs == ()
    assert [[spec.name for spec in suffix.inputs] for suffix in suffixes] == [
        ["boundary_0", "theta"], ["boundary_0"], ["boundary_0"],
    ]  # fmt: skip
    assert [len(graph.model.graph) for graph in graphs] == before
    assert graphs[2].model.graph.inputs[0] is not prefix.model.graph.inputs[0]


def test_a_graph_that_computes_the_boundary_otherwise_is_refused(graphs, made):
    other = made(INFER.replace("h = Relu(p)", "h = Sigmoid(p)"), (LOGITS,), adapter=(A,))
    with pytest.raises(UnsupportedModel, match=r"carry 1 value\(s\) that training computes and infer\.onnx does not"):
        split_prefix(graphs[0], (graphs[1], other))


def test_an_input_that_is_passed_on_becomes_an_output_by_a_node_of_its_own(graphs, run):
    infer = graphs[2]
    (x, *_) = infer.model.graph.inputs
    part = extract(infer, "passed", {"y": x}, (), (tensor_spec("y", "batch", 64),))
    assert [node.op_type for node in part.model.graph] == ["Identity"]
    feeds = {"x": np.ones((2, 64), np.float32)}
    np.testing.assert_array_equal(run(part, feeds)["y"], feeds["x"])
