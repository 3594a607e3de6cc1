"""AMD Quark in an environment of its own, on small graphs; what it makes is held to the same rules and reference."""

import numpy as np
import pytest

pytest.importorskip("torch")

import onnx
import onnx_ir as ir

from fieldtune.errors import ExportError
from fieldtune.hardware import load_profile
from fieldtune.placement.plan import plan_placement
from fieldtune.placement.rules import check_rules
from fieldtune_offline.accelerators.int8 import choose_quantizer, quantize
from fieldtune_offline.accelerators.int8.boundary_quality import signal_to_noise_db
from fieldtune_offline.accelerators.int8.integer_reference import compare_operators
from fieldtune_offline.accelerators.int8.running import open_model
from fieldtune_offline.accelerators.int8.static import static_model
from fieldtune_offline.node_table import table_of

pytestmark = pytest.mark.slow

CONVOLUTIONS = """<ir_version: 8, opset_import: ["": 18]> network (float[batch,3,12,12] x) => (float[batch,8,1,1] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    b = Clip(a, low, high)
    c = Conv<pads=[1,1,1,1],group=8>(b, w2, b2)
    d = Relu(c)
    e = Add(d, b)
    f = MaxPool<kernel_shape=[2,2],strides=[2,2]>(e)
    y = GlobalAveragePool(f)
}"""
ENCODER = """<ir_version: 8, opset_import: ["": 18]> encoder (float[batch,6,16] x) => (float[batch,6,16] y) {
    l = LayerNormalization(x, gamma, beta)
    g = MatMul(l, w1)
    s = Softmax<axis=-1>(g)
    k = MatMul(s, w2)
    y = Add(k, x)
}"""


def graph(text, **initializers):
    model = onnx.parser.parse_model(text)
    draw = np.random.default_rng(0)
    for name, value in initializers.items():
        array = draw.normal(0, 0.4, value).astype(np.float32) if isinstance(value, tuple) else value
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return ir.from_proto(model)


@pytest.fixture(scope="module")
def quark(lacks):
    """Quark's quantizer."""
    try:
        return choose_quantizer("quark", print)
    except ExportError as error:
        lacks("quark", f"AMD Quark cannot be installed here: {error}")


@pytest.fixture(scope="module")
def convolutions():
    bounds = {"low": np.float32(0), "high": np.float32(6)}
    return graph(CONVOLUTIONS, w1=(8, 3, 3, 3), b1=(8,), w2=(8, 1, 3, 3), b2=(8,), **bounds)


@pytest.mark.parametrize("name", ["kv260", "vek280", "ryzen-ai-phoenix"])
def test_what_quark_makes_is_what_the_target_takes(quark, convolutions, name):
    profile = load_profile(name)
    accelerator = profile.accelerator
    x = np.random.default_rng(1).normal(0, 1, (28, 3, 12, 12)).astype(np.float32)
    found = quark(convolutions, accelerator, [{"x": x}])
    table = table_of(found.model)
    assert check_rules(table, profile) == ()
    assert plan_placement(table, accelerator).offload == 1
    assert table.values["x"].shape == (accelerator.batch, 3, 12, 12)
    assert found.quantizer == "amd-quark 0.13"
    assert found.examples == 28
    kinds = {(node.quantization.dtype, node.quantization.zero_point) for node in table.nodes if node.quantization}
    assert kinds == {("int8", (0,)), (accelerator.activation_type, (accelerator.zero_point,))}
    assert [node.op for node in table.nodes if "a" in node.inputs] == ["Clip"]
    batch = x[: accelerator.batch]
    exact, changed = (
        open_model(model, fused=False).run(None, {"x": batch})[0] for model in (found.reference, found.model)
    )
    assert signal_to_noise_db({"y": exact}, {"y": changed}) > 20
    report = compare_operators(found.model, [{"x": batch}])
    assert {operator.op for operator in report.operators} >= {"Conv", "Add", "MaxPool", "GlobalAveragePool"}
    assert (report.half_to_even, report.left_out) == (0, ())
    assert report.largest <= 1


def test_quark_leaves_to_the_cpu_what_the_accelerator_does_not_take(quark):
    model = graph(ENCODER, gamma=(16,), beta=(16,), w1=(16, 16), w2=(16, 16))
    profile = load_profile("kv260")
    x = np.random.default_rng(1).normal(0, 1, (12, 6, 16)).astype(np.float32)
    found, ours = (function(model, profile.accelerator, [{"x": x}]) for function in (quark, quantize))
    table = table_of(found.model)
    assert check_rules(table, profile) == ()
    quantized = [sum(node.op == "QuantizeLinear" for node in table_of(each.model).nodes) for each in (found, ours)]
    assert quantized == [6, 6]
    assert {node.op for node in table.nodes} >= {"LayerNormalization", "Softmax", "MatMul"}


def test_an_error_of_quark_is_told(quark, convolutions, monkeypatch):
    from fieldtune_offline.accelerators.int8.quark import quantizing

    static = static_model(convolutions, {"batch": 1})
    monkeypatch.setattr(quantizing, "static_graph", lambda *_: (static, [{"z": np.zeros((1, 3), np.float32)}], 1))
    with pytest.raises(ExportError, match="AMD Quark cannot quantize the graph: "):
        quark(convolutions, load_profile("kv260").accelerator, [])
