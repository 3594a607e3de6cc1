"""Which operators of a float32 graph are quantized, and which activation is computed in the same go as another."""

import pytest

from fieldtune_offline.accelerators.int8.regions import accelerated_nodes, fused_activation


@pytest.fixture
def accelerated(flow, accelerator):
    """The function from a graph and a profile's name to the first results of the operators to quantize."""

    def run(model, profile):
        found = flow(model, n=2)
        taken = accelerated_nodes(found, accelerator(profile))
        return [found.table.nodes[index].outputs[0] for index in sorted(taken)]

    return run


@pytest.mark.parametrize(
    ("activation", "profile", "taken"),
    [
        ("HardSigmoid<alpha=0.16666667,beta=0.5>", "kv260", ["a", "y"]),
        ("HardSigmoid<alpha=0.16666667,beta=0.5>", "ryzen-ai-strix", ["a", "r", "y"]),
        ("HardSigmoid<alpha=0.2,beta=0.5>", "vck190", ["a", "y"]),
        ("LeakyRelu<alpha=0.1015625>", "kv260", ["a", "r", "y"]),
        ("LeakyRelu<alpha=0.2>", "kv260", ["a", "y"]),
        ("HardSigmoid<alpha=0.16666667,beta=0.5>", "vck190", ["a", "r", "y"]),
        ("Sigmoid", "vek280", ["a", "y"]),
    ],
)
def test_activations_are_taken_as_the_target_has_them(graph, accelerated, activation, profile, taken):
    text = f"test (float[n,3,8,8] x) => (float[n,4,6,6] y) {{ a = Conv(x, w) r = {activation}(a) y = Conv(r, v) }}"
    assert accelerated(graph(text, w=(4, 3, 3, 3), v=(4, 4, 1, 1)), profile) == taken


def test_grouped_convolutions_and_scaled_products_are_left(graph, accelerated):
    text = "test (float[n,4,8,8] x) => (float[n,4,8,8] y) { y = Conv<group=2>(x, w) }"
    assert accelerated(graph(text, w=(4, 2, 1, 1)), "kv260") == []
    text = "test (float[n,4] x) => (float[n,4] y) { y = Gemm<alpha=2.0>(x, w) }"
    assert accelerated(graph(text, w=(4, 4)), "kv260") == []


def test_what_the_accelerator_does_not_take_cuts_off_the_cheap_operators_beside_it(graph, accelerated):
    """Of a chain, only what lies between two products stays: in float32 the rest spares no way to the CPU."""
    text = """test (float[n,3,8,8] x) => (float[n,4,8,8] y) {
        a = Conv(x, w) r = Relu(a) s = Softmax(r) t = Relu(s) u = Relu(t) b = Conv(u, v) y = Relu(b)
    }"""
    assert accelerated(graph(text, w=(4, 3, 1, 1), v=(4, 4, 1, 1)), "kv260") == ["a", "b", "y"]


@pytest.mark.parametrize(
    ("text", "fused"),
    [
        ("a = Conv(x, w) y = Relu(a)", "y"),
        ("a = Conv(x, w) r = Relu(a) y = Add(a, r)", None),
        ("a = Conv(x, w) y = MaxPool<kernel_shape=[1,1]>(a)", None),
        ("a = Add(x, x) y = Relu(a)", "y"),
        ("a = Add(x, x) y = LeakyRelu<alpha=0.1015625>(a)", None),
    ],
)
def test_an_activation_is_fused_where_it_alone_reads_the_result(graph, flow, text, fused):
    found = flow(graph(f"test (float[n,3,8,8] x) => (float[n,3,8,8] y) {{ {text} }}", w=(3, 3, 1, 1)), n=2)
    taken = frozenset(range(len(found.table.nodes)))
    follower = fused_activation(found, 0, taken)
    assert (follower and found.table.nodes[follower].outputs[0]) == fused
    assert fused_activation(found, 0, frozenset({0})) is None
