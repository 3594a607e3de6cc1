import numpy as np
import pytest


@pytest.fixture
def quantized(graph, accelerator):
    """The function that quantizes a graph of one input for a target, on random numbers."""
    from fieldtune_offline.accelerators.int8 import quantize

    def run(text, shape, profile="vek280", batch=2, **initializers):
        x = np.random.default_rng(1).normal(0.5, 1, (16, *shape)).astype(np.float32)
        model = graph(text, **initializers)
        return quantize(model, accelerator(profile), [{"x": x}], batch=batch).model, [{"x": x[:2]}, {"x": x[2:4]}]

    return run


@pytest.mark.parametrize("profile", ["kv260", "ryzen-ai-phoenix"])
@pytest.mark.parametrize(
    ("name", "lines", "operators"),
    [
        ("convolutions", "a = Conv(x, w) b = Clip(a, low, high) y = Conv<group=8,pads=[1,1,1,1]>(b, d)",
         ["Conv", "Conv"]),
        ("additions", "a = Conv(x, w) b = Conv(x, w2) c = Add(a, b) y = Relu(c)", ["Conv", "Conv", "Add"]),
        ("products", "a = Conv(x, w) b = Conv(x, w2) y = Mul(a, b)", ["Conv", "Conv", "Mul"]),
        ("pools", "a = MaxPool<kernel_shape=[2,2]>(x) y = AveragePool<kernel_shape=[3,3]>(a)",
         ["MaxPool", "AveragePool"]),
        ("joins", "a = Conv(x, w) b = Conv(x, w2) y = Concat<axis=1>(a, b)", ["Conv", "Conv", "Concat"]),
        ("leaks", "a = Conv(x, w) y = LeakyRelu<alpha=0.1015625>(a)", ["Conv"]),
        ("means", "a = GlobalAveragePool(x) b = Flatten(a) y = Gemm<transB=1>(b, g, v)",
         ["GlobalAveragePool", "Flatten", "Gemm"]),
    ],
)  # fmt: skip
def test_half_to_even_is_onnx_runtime_and_half_up_is_a_step_away_at_most(quantized, profile, name, lines, operators):
    from fieldtune_offline.accelerators.int8.integer_reference import compare_operators

    shapes = {"w": (8, 5, 1, 1), "w2": (8, 5, 1, 1), "d": (8, 1, 3, 3), "g": (3, 5), "v": (3,)}
    used = {key: shape for key, shape in shapes.items() if f" {key})" in lines or f" {key}," in lines}
    bounds = {"low": np.float32(0), "high": np.float32(6)} if "low" in lines else {}
    dims = {"pools": "[n,5,6,6]", "joins": "[n,16,9,9]", "means": "[n,3]"}.get(name, "[n,8,9,9]")
    text = f"{name} (float[n,5,9,9] x) => (float{dims} y) {{ {lines} }}"
    model, feeds = quantized(text, (5, 9, 9), profile, **used, **bounds)
    report = compare_operators(model, feeds)
    assert [operator.op for operator in report.operators] == operators
    assert report.left_out == ()
    assert report.half_to_even == 0
    assert report.largest <= 1
    assert 0 <= report.share < 0.1
    elements = {operator.op: operator.elements for operator in report.operators}
    if name == "leaks":
        assert elements == {"Conv": 4 * 8 * 9 * 9}


def test_halves_differ_by_a_step(quantized):
    from fieldtune_offline.accelerators.int8.integer_reference import compare_operators

    model, _ = quantized("t (float[n,4] x) => (float[n,8] y) { y = Gemm<transB=1>(x, w) }", (4,), batch=8, w=(8, 4))
    draw = np.random.default_rng(2)
    report = compare_operators(model, [{"x": draw.normal(0.5, 1, (8, 4)).astype(np.float32)} for _ in range(60)])
    (gemm,) = report.operators
    assert (gemm.elements, gemm.largest, gemm.half_to_even) == (60 * 8 * 8, 1, 0)
    assert 0 < gemm.half_up == round(report.share * gemm.elements) < 0.1 * gemm.elements


def test_what_the_reference_does_not_know_is_named(quantized):
    from fieldtune_offline.accelerators.int8.integer_reference import compare_operators

    text = """t (float[n,4,6,6] x) => (float[n,2,6,6] y) {
        a = Conv(x, w) b = HardSigmoid<alpha=0.16666667,beta=0.5>(a) y = Conv(b, v)
    }"""
    model, feeds = quantized(text, (4, 6, 6), w=(4, 4, 1, 1), v=(2, 4, 1, 1))
    report = compare_operators(model, feeds)
    assert [operator.op for operator in report.operators] == ["Conv"]
    assert len(report.left_out) == 1
