import numpy as np
import pytest

from fieldtune_offline.accelerators.int8.boundary_quality import signal_to_noise_db

LAYERS = 5


def _chain(graph, depthwise):
    """Convolutions behind each other on bright images, whose constant part makes the errors of weights add up."""
    lines, weights = [], {}
    draw = np.random.default_rng(0)
    for layer in range(LAYERS):
        grouped = depthwise and layer % 2 == 1
        shape = (8, 1 if grouped else 3 if layer == 0 else 8, 3, 3)
        weights[f"w{layer}"] = (draw.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        weights[f"b{layer}"] = draw.normal(0, 0.5, 8).astype(np.float32)
        group = "group=8," if grouped else ""
        lines.append(f"c{layer} = Conv<{group}pads=[1,1,1,1]>(r{layer}, w{layer}, b{layer})")
        lines.append(f"r{layer + 1} = Relu(c{layer})")
    text = f"chain (float[n,3,12,12] r0) => (float[n,8,12,12] r{LAYERS}) {{ {' '.join(lines)} }}"
    return graph(text, **weights)


@pytest.mark.parametrize(("depthwise", "gain_db"), [(False, 2), (True, 0.5)])
def test_adjusted_weights_make_up_for_what_was_lost_before(graph, accelerator, monkeypatch, depthwise, gain_db):
    from fieldtune_offline.accelerators.int8 import quantize, quantizing
    from fieldtune_offline.accelerators.int8.running import open_model

    model = _chain(graph, depthwise)
    draw = np.random.default_rng(1)
    calibration, held = (draw.normal(3, 1, (count, 3, 12, 12)).astype(np.float32) for count in (32, 8))
    ratios = []
    for adjust in (quantizing.adjust_weights, lambda *_: {}):
        monkeypatch.setattr(quantizing, "adjust_weights", adjust)
        found = quantize(model, accelerator("kv260"), [{"r0": calibration}], batch=8)
        exact, changed = (
            open_model(each, fused=False).run(None, {"r0": held})[0] for each in (found.reference, found.model)
        )
        ratios.append(signal_to_noise_db({"y": exact}, {"y": changed}))
    assert ratios[0] > ratios[1] + gain_db
    assert ratios[0] > 25


def test_products_are_adjusted_in_either_orientation(graph, accelerator, monkeypatch):
    from fieldtune_offline.accelerators.int8 import quantize
    from fieldtune_offline.accelerators.int8.running import open_model

    model = graph(
        """test (float[n,5,16] x) => (float[m,16] y) {
            a = MatMul(x, w1)
            f = Reshape(a, shape)
            y = Gemm<transB=1>(f, w2, b2)
        }""",
        w1=(16, 24),
        shape=np.array([-1, 24]),
        w2=(16, 24),
        b2=(16,),
    )
    x = np.random.default_rng(1).normal(1, 1, (40, 5, 16)).astype(np.float32)
    found = quantize(model, accelerator("vek280"), [{"x": x}], batch=4)
    exact, changed = (
        open_model(each, fused=False).run(None, {"x": x[:4]})[0] for each in (found.reference, found.model)
    )
    assert signal_to_noise_db({"y": exact}, {"y": changed}) > 30


def test_shared_weights_are_left_as_they_are(graph):
    from fieldtune_offline.accelerators.int8.adjustment import adjust_weights
    from fieldtune_offline.accelerators.int8.positions import Product
    from fieldtune_offline.accelerators.int8.scheme import Scheme
    from fieldtune_offline.accelerators.int8.static import static_model

    text = "t (float[n,4] x) => (float[n,4] y) { a = MatMul(x, w) b = MatMul(a, w) y = MatMul(b, v) }"
    model = static_model(graph(text, w=(4, 4), v=(4, 4)), {"n": 3})
    bindings = tuple(
        Product(data=data, weight=weight, result=result)
        for data, weight, result in (("x", "w", "a"), ("a", "w", "b"), ("b", "v", "y"))
    )
    scheme = Scheme(
        activations=("x", "a", "b", "y"), weights=("w", "v"), biases=(), bindings=bindings, kept=frozenset()
    )
    batches = [{"x": np.random.default_rng(2).normal(size=(3, 4)).astype(np.float32)}]
    found = adjust_weights(model, scheme, dict.fromkeys("xabywv", 5), batches)
    assert found.keys() == {"v"}
    np.testing.assert_array_equal(found["v"] * 32, np.rint(found["v"] * 32))


@pytest.mark.parametrize(
    ("text", "shape", "examples"),
    [
        ("t (float[n,3,16,16] x) => (float[n,4,16,16] y) { y = Conv(x, w) }", (3, 16, 16), 64),
        ("t (float[n,64,4] x) => (float[n,64,4] y) { y = MatMul(x, w) }", (64, 4), 256),
    ],
    ids=["images", "texts"],
)
def test_weights_of_small_examples_are_adjusted_on_more_of_them(graph, accelerator, monkeypatch, text, shape, examples):
    from fieldtune_offline.accelerators.int8 import quantize, quantizing

    seen = []

    def adjust(model, scheme, positions, batches):
        seen.append(sum(len(batch["x"]) for batch in batches))
        return {}

    monkeypatch.setattr(quantizing, "adjust_weights", adjust)
    model = graph(text, w=(4, 3, 1, 1) if len(shape) == 3 else (4, 4))
    x = np.random.default_rng(0).normal(size=(300, *shape)).astype(np.float32)
    quantize(model, accelerator("kv260"), [{"x": x}], batch=4)
    assert seen == [examples]
