import numpy as np
import pytest

from fieldtune.errors import UnsupportedModel

BLOCK = """test (float[batch,3,H,W] x) => (float[batch,4] y) {
    c = Conv<strides=[2,2]>(x, weight)
    n = BatchNormalization<epsilon=0.001>(c, gamma, beta, mean, variance)
    r = Clip(n, low, high)
    m = ReduceMean<keepdims=0>(r, axes)
    y = Mul(m, two)
}"""


@pytest.fixture
def block(graph):
    return graph(
        BLOCK,
        weight=(4, 3, 3, 3),
        gamma=(4,),
        beta=(4,),
        mean=(4,),
        variance=np.full(4, 0.7, np.float32),
        low=np.float32(0),
        high=np.float32(6),
        axes=np.array([-2, -1]),
        two=np.full((1, 4), 2, np.float32),
    )


def test_a_static_graph_has_every_size_and_computes_the_same(block):
    from fieldtune_offline.accelerators.int8.running import open_model
    from fieldtune_offline.accelerators.int8.static import static_model

    found = static_model(block, {"batch": 5, "H": 9, "W": 11})
    assert [node.op_type for node in found.graph] == ["Conv", "Clip", "GlobalAveragePool", "Flatten", "Mul"]
    shapes = {value.name: value.shape.numpy() for node in found.graph for value in node.outputs}
    assert shapes["y"] == (5, 4)
    assert shapes["r"] == (5, 4, 4, 5)
    assert found.graph.outputs[0].shape.numpy() == (5, 4)
    assert "weight" in found.graph.initializers
    conv = found.graph[0]
    attributes = {name: attribute.value for name, attribute in conv.attributes.items()}
    assert attributes == {
        "kernel_shape": (3, 3), "strides": (2, 2), "dilations": (1, 1), "pads": (0, 0, 0, 0), "group": 1,
        "auto_pad": "NOTSET",
    }  # fmt: skip
    x = np.random.default_rng(1).normal(size=(5, 3, 9, 11)).astype(np.float32)
    np.testing.assert_allclose(
        open_model(found).run(None, {"x": x})[0], open_model(block).run(None, {"x": x})[0], rtol=1e-4, atol=1e-5
    )
    assert found.ir_version == 8
    assert dict(found.opset_imports) == {"": 18}


def test_the_model_that_is_given_is_left_as_it_is(block):
    from fieldtune_offline.accelerators.int8.static import static_model

    static_model(block, {"batch": 5, "H": 9, "W": 11})
    assert str(block.graph.inputs[0].shape) == "[batch,3,H,W]"
    assert [node.op_type for node in block.graph][:2] == ["Conv", "BatchNormalization"]


def test_a_dimension_without_a_size_is_named(block):
    from fieldtune_offline.accelerators.int8.static import static_model

    with pytest.raises(UnsupportedModel, match="input x: dimension W has no size"):
        static_model(block, {"batch": 5, "H": 9})


def test_a_shape_that_depends_on_data_is_refused(graph):
    from fieldtune_offline.accelerators.int8.static import static_model

    model = graph("test (float[n,3] x) => (int64[2,k] y) { y = NonZero(x) }")
    with pytest.raises(UnsupportedModel, match=r"NonZero .*: the shape of its output y depends on data"):
        static_model(model, {"n": 2})


def test_an_activation_is_no_bias(graph):
    from fieldtune_offline.accelerators.int8.running import open_model
    from fieldtune_offline.accelerators.int8.static import static_model

    text = "test (float[n,8] x) => (float[n,8] y) { s = Softmax(x) a = MatMul(x, w) b = MatMul(s, v) y = Add(a, b) }"
    model = graph(text, w=(8, 8), v=(8, 8))
    found = static_model(model, {"n": 3})
    products = [node for node in found.graph if node.op_type in ("Gemm", "MatMul")]
    assert [len(node.inputs) for node in products] == [2, 2]
    assert [node.op_type for node in found.graph].count("Add") == 1
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    expected = open_model(model).run(None, {"x": x})[0]
    np.testing.assert_allclose(open_model(found).run(None, {"x": x})[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("size", "stride"), [(7, 1), (8, 2), (9, 2), (10, 3)])
@pytest.mark.parametrize("automatic", ["SAME_UPPER", "SAME_LOWER"])
def test_automatic_padding_is_written_out(graph, size, stride, automatic):
    from fieldtune_offline.accelerators.int8.running import open_model
    from fieldtune_offline.accelerators.int8.static import static_model

    model = graph(
        f"test (float[n,2,h,h] x) => (float[n,3,a,b] y) {{"
        f'y = Conv<auto_pad="{automatic}",strides=[{stride},{stride}]>(x, w) }}',
        w=(3, 2, 4, 4),
    )
    found = static_model(model, {"n": 1, "h": size})
    (conv,) = found.graph
    assert conv.attributes["auto_pad"].as_string() == "NOTSET"
    x = np.random.default_rng(1).normal(size=(1, 2, size, size)).astype(np.float32)
    np.testing.assert_allclose(
        open_model(found).run(None, {"x": x})[0], open_model(model).run(None, {"x": x})[0], rtol=1e-5, atol=1e-5
    )
