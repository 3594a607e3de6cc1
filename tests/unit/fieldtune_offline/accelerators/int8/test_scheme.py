import numpy as np
import pytest

from fieldtune_offline.accelerators.int8.positions import Addition, Equal, Product

RESIDUAL = """test (float[n,3,8,8] x) => (float[n,4,1,1] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    r = Relu(a)
    b = Conv<pads=[1,1,1,1],group=4>(r, w2, b2)
    c = Clip(b, low, high)
    s = Add(c, r)
    t = Relu(s)
    y = GlobalAveragePool(t)
}"""
ENCODER = """test (float[n,6,8] x) => (float[n,6,8] y) {
    l = LayerNormalization(x, scale, shift)
    g = MatMul(l, w1)
    h = Mul(g, half)
    e = Erf(h)
    f = Add(e, half)
    i = Mul(g, f)
    k = MatMul(i, w2)
    y = Add(k, l)
}"""


@pytest.fixture
def residual(graph):
    bounds = {"low": np.float32(0), "high": np.float32(6)}
    return graph(RESIDUAL, w1=(4, 3, 3, 3), b1=(4,), w2=(4, 1, 3, 3), b2=(4,), **bounds)


@pytest.fixture
def schemed(flow, accelerator):
    """The function that returns which values are computed by quantized operators, and the scheme."""
    from fieldtune_offline.accelerators.int8.regions import accelerated_nodes
    from fieldtune_offline.accelerators.int8.scheme import quantization_scheme

    def run(model, profile):
        found = flow(model, n=2)
        taken = accelerated_nodes(found, accelerator(profile))
        return [found.table.nodes[index].outputs[0] for index in sorted(taken)], quantization_scheme(found, taken)

    return run


def test_nothing_is_quantized_between_an_operator_and_its_activation(residual, schemed):
    taken, scheme = schemed(residual, "kv260")
    assert taken == ["a", "r", "b", "c", "s", "t", "y"]
    assert set(scheme.activations) == {"x", "r", "c", "t", "y"}
    assert set(scheme.weights) == {"w1", "w2"}
    assert [(bias.bias, bias.data, bias.weight) for bias in scheme.biases] == [("b1", "x", "w1"), ("b2", "r", "w2")]
    assert set(scheme.bindings) == {
        Product(data="x", weight="w1", result="r"),
        Product(data="r", weight="w2", result="c"),
        Addition(operands=("c", "r"), result="t"),
        Equal(tensors=("t", "y")),
    }
    assert scheme.kept == frozenset()


def test_what_the_cpu_is_beside_stays_in_float32(graph, schemed):
    model = graph(ENCODER, scale=(8,), shift=(8,), w1=(8, 8), half=np.float32(0.5), w2=(8, 8))
    taken, scheme = schemed(model, "vek280")
    assert taken == ["g", "k"]
    assert set(scheme.activations) == {"l", "g", "i", "k"}
    assert {name for name, _ in scheme.kept} == {"l"}


def test_an_activation_that_others_read_is_not_fused(graph, schemed):
    text = "test (float[n,3,8,8] x) => (float[n,4,8,8] y) { a = Conv(x, w) r = Relu(a) y = Add(a, r) }"
    taken, scheme = schemed(graph(text, w=(4, 3, 1, 1)), "kv260")
    assert taken == ["a", "r", "y"]
    assert set(scheme.activations) == {"x", "a", "r", "y"}


def test_an_input_that_the_cpu_reads_too_is_read_as_it_is_fed(graph, schemed):
    text = "test (float[n,8] x) => (float[n,8] y) { s = Softmax(x) a = MatMul(x, w) b = MatMul(s, w2) y = Add(a, b) }"
    taken, scheme = schemed(graph(text, w=(8, 8), w2=(8, 8)), "kv260")
    assert (len(taken), taken[-1]) == (3, "y")
    assert [name for name, _ in scheme.kept] == ["x"]
