import numpy as np
import pytest

from fieldtune_offline.accelerators.int8.boundary_quality import signal_to_noise_db

WIDTH, INNER, LARGE = 24, 48, 5
TOKEN = np.where(np.arange(WIDTH) % 2, 1.0, -1.0)
BLOCK = f"""encoder (float[n,6,{WIDTH}] x) => (float[n,6,{WIDTH}] y) {{
    norm = LayerNormalization(x, scale, shift)
    q = MatMul(norm, wq)
    k = MatMul(norm, wk)
    across = Transpose<perm=[0,2,1]>(k)
    scores = MatMul(q, across)
    shares = Softmax(scores)
    mixed = MatMul(shares, norm)
    first = Add(mixed, norm)
    flat = Reshape(first, rows)
    inner = Gemm<transB=1>(flat, w1, b1)
    e = Erf(inner)
    gate = Mul(inner, e)
    out = Gemm(gate, w2, b2)
    back = Reshape(out, shape)
    sum = Add(back, first)
    y = LayerNormalization(sum, scale, shift)
}}"""


@pytest.fixture
def encoder(graph):
    """One block whose feed-forward part gives the first token two channels far larger than the others."""
    draw = np.random.default_rng(3)

    def weights(*shape):
        return (draw.normal(size=shape) / np.sqrt(WIDTH)).astype(np.float32)

    w1, w2 = weights(INNER, WIDTH), weights(INNER, WIDTH)
    w1[LARGE] = 4 * TOKEN
    w2[LARGE, LARGE] = 8
    return graph(
        BLOCK,
        wq=weights(WIDTH, WIDTH),
        wk=weights(WIDTH, WIDTH),
        w1=w1,
        b1=weights(INNER),
        w2=w2,
        b2=weights(WIDTH),
        scale=(1 + 0.1 * draw.normal(size=WIDTH)).astype(np.float32),
        shift=weights(WIDTH),
        rows=np.array([-1, WIDTH]),
        shape=np.array([-1, 6, WIDTH]),
    )


@pytest.fixture
def examples():
    """The function that returns so many inputs, whose first token is always the same."""

    def draw(count, seed):
        x = np.random.default_rng(seed).normal(size=(count, 6, WIDTH))
        x -= (x @ TOKEN)[..., None] * TOKEN / (TOKEN @ TOKEN)
        x[:, 0] = TOKEN
        return x.astype(np.float32)

    return draw


def _run(model, x):
    from fieldtune_offline.accelerators.int8.running import open_model

    return open_model(model, fused=False).run(None, {"x": x})[0]


def _scaled(model):
    """Return what each Mul by a constant of each channel gives, by name."""
    return {node.outputs[0].name for node in model.graph if node.op_type == "Mul" and "scales" in node.inputs[1].name}


def test_a_scaled_encoder_gives_the_same_numbers_in_float32(encoder, examples, accelerator):
    from fieldtune_offline.accelerators.int8 import quantize
    from fieldtune_offline.accelerators.int8.static import static_model

    x = examples(4, 1)
    scaled = quantize(encoder, accelerator("kv260"), [{"x": examples(16, 0)}], batch=4).reference
    assert _scaled(scaled) == {"norm.even", "q.restored", "flat.even", "inner.restored", "gate.even", "out.restored"}
    factors = [array.const_value.numpy() for name, array in scaled.graph.initializers.items() if "scales" in name]
    assert all((np.frexp(array)[0] == 0.5).all() for array in factors)
    assert max(array.max() / array.min() for array in factors) >= 16
    np.testing.assert_array_equal(_run(scaled, x), _run(static_model(encoder, {"n": 4}), x))


def test_large_channels_no_longer_cost_the_others_their_bits(encoder, examples, accelerator, monkeypatch):
    from fieldtune_offline.accelerators.int8 import quantize, quantizing

    x, ratios = examples(4, 1), []
    for equalize in (quantizing.equalize, lambda *_: None):
        monkeypatch.setattr(quantizing, "equalize", equalize)
        found = quantize(encoder, accelerator("kv260"), [{"x": examples(64, 0)}], batch=4)
        ratios.append(signal_to_noise_db({"y": _run(found.reference, x)}, {"y": _run(found.model, x)}))
    assert ratios[0] > ratios[1] + 6
    assert ratios[0] > 20


def test_the_plan_has_the_scales_before_there_are_examples(encoder, examples, accelerator, tmp_path):
    import onnx_ir as ir

    from fieldtune_offline.accelerators.int8 import planned_table, quantize
    from fieldtune_offline.node_table import table_of

    ir.save(encoder, tmp_path / "encoder.onnx")
    target = accelerator("kv260")
    planned = planned_table(tmp_path / "encoder.onnx", target)
    found = table_of(quantize(encoder, target, [{"x": examples(4, 0)}]).model)
    assert [(node.op, node.inputs, node.outputs) for node in planned.nodes] == [
        (node.op, node.inputs, node.outputs) for node in found.nodes
    ]
    assert sum(node.op == "Mul" for node in planned.nodes) == 7


CONVOLUTIONS = """network (float[n,3,8,8] x) => (float[n,5] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    s = Sigmoid(a)
    g = Mul(a, s)
    c = Conv(g, w2, b2)
    p = GlobalAveragePool(c)
    f = Flatten(p)
    y = Gemm(f, w3, b3)
}"""
TWICE = "t (float[n,4] x) => (float[n,4] y) { a = Relu(x) b = MatMul(a, w) c = Exp(b) d = MatMul(c, w) y = Exp(d) }"
OUTSIDE = "t (float[n,4] x) => (float[n,4] y) { a = MatMul(x, w) b = Exp(a) y = MatMul(b, v) }"


@pytest.mark.parametrize(
    ("text", "shapes", "scaled"),
    [
        (CONVOLUTIONS, {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (6, 4, 1, 1), "b2": (6,), "w3": (6, 5), "b3": (5,)}, {}),
        (TWICE, {"w": (4, 4)}, {}),
        (OUTSIDE, {"w": (4, 4), "v": (4, 4)}, {"a", "b"}),
    ],
    ids=["convolutions", "shared weights", "inputs and outputs"],
)
def test_what_is_left_alone(graph, flow, accelerator, text, shapes, scaled):
    from fieldtune_offline.accelerators.int8.equalization import find_places
    from fieldtune_offline.accelerators.int8.regions import accelerated_nodes

    found = flow(graph(text, **shapes), n=2)
    places = find_places(found, accelerated_nodes(found, accelerator("kv260")))
    assert set(places.tensors) == set(scaled)


def test_channels_that_are_never_used_keep_their_scale(graph, accelerator):
    from fieldtune_offline.accelerators.int8 import quantize

    weights = np.eye(4, dtype=np.float32)
    weights[:, 3] = 0
    weights[2] = 0
    text = "t (float[n,4] x) => (float[n,4] y) { a = Exp(x) b = MatMul(a, w) y = Exp(b) }"
    x = np.array([[0, 1, 2, 3], [0, -1, -200, 1]], np.float32)
    found = quantize(graph(text, w=weights), accelerator("kv260"), [{"x": x}], batch=2)
    constants = [value.const_value.numpy() for value in found.reference.graph.initializers.values()]
    assert all(np.isfinite(array).all() for array in constants)
    assert _run(found.model, x)[:, 2:].tolist() == [[1, 1], [1, 1]]
