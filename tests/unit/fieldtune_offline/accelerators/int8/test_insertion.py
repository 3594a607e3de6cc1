"""Quantization put into a graph: at the positions that were chosen, and not before an activation is computed."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from fieldtune_offline.accelerators.int8.insertion import insert_quantization
from fieldtune_offline.accelerators.int8.regions import accelerated_nodes
from fieldtune_offline.accelerators.int8.scheme import quantization_scheme
from fieldtune_offline.accelerators.int8.static import static_model

PRODUCTS = """test (float[n,4] x) => (float[n,4] y) {
    a = MatMul(x, w) r = Relu(a) b = MatMul(r, v) s = Softmax(b) y = MatMul(s, w)
}"""
W = np.array([[0.5, -0.25, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0.25], [0.125, 0, 0, 1]], np.float32)
POSITIONS = {"x": 4, "w": 6, "r": 5, "v": 5, "b": 4, "s": 7, "y": 6, "a": 5}


@pytest.fixture
def quantized(graph, flow, accelerator):
    """The function from a text, a profile's name and initializers to the quantized graph."""

    def run(text, profile, **initializers):
        model, found = static_model(graph(text, **initializers), {"n": 2}), flow(graph(text, **initializers), n=2)
        scheme = quantization_scheme(found, accelerated_nodes(found, accelerator(profile)))
        positions = {name: POSITIONS[name] for name in (*scheme.activations, *scheme.weights)}
        return insert_quantization(model, scheme, positions, accelerator(profile))

    return run


def scales(model):
    """Position and zero point of each quantized value or constant, by the name that it had."""
    found = {}
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            name = node.inputs[0].name.removesuffix("_quantized").removesuffix("_QuantizeLinear_Output")
            scale, zero = (value.const_value.numpy() for value in node.inputs[1:3])
            found[name] = (-int(np.log2(scale)), int(zero), zero.dtype.name)
    return found


@pytest.mark.parametrize(("profile", "activation"), [("kv260", (0, "int8")), ("ryzen-ai-phoenix", (128, "uint8"))])
def test_every_tensor_has_the_scale_of_its_position(quantized, profile, activation):
    found = scales(quantized(PRODUCTS, profile, w=W, v=W))
    for name in ("x", "r", "b", "s", "y"):
        assert found[name] == (POSITIONS[name], *activation), name
    for name in ("w", "v"):
        assert found[name] == (POSITIONS[name], 0, "int8"), name
    assert "a" not in found, "what a product puts out before its activation is never stored"


def test_it_computes_what_the_float_graph_computes_but_for_rounding(quantized, graph):
    model = quantized(PRODUCTS, "kv260", w=W, v=W)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    x = np.array([[1, -0.5, 0.25, 2], [0, 0, 0, -1]], np.float32)

    def run(data):
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        session = onnxruntime.InferenceSession(data.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, {"x": x})[0]

    exact = run(ir.to_proto(static_model(graph(PRODUCTS, w=W, v=W), {"n": 2})))
    found = run(proto)
    assert np.abs(found - exact).max() <= 0.05
    np.testing.assert_array_equal(found * 2.0**6, np.round(found * 2.0**6))
    assert (model.producer_name, dict(model.metadata_props)) == ("fieldtune", {})


def test_the_cpu_goes_on_reading_what_it_is_fed(quantized):
    text = "test (float[n,4] x) => (float[n,4] a, float[n,4] y) { s = Softmax(x) a = MatMul(x, w) y = MatMul(s, v) }"
    model = quantized(text, "kv260", w=W, v=W)
    (softmax,) = (node for node in model.graph if node.op_type == "Softmax")
    assert softmax.inputs[0].name == "x"
    assert softmax.inputs[0].producer() is None
