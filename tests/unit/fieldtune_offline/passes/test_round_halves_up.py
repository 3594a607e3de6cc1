import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from fieldtune_offline.passes.round_halves_up import round_halves_up


def _graph(scale, zero_point):
    """x quantized and dequantized again, after a constant that is quantized as well."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n"]))
    held = {
        "weight": np.array([0.5 * scale], np.float32),
        "scale": np.array(scale, np.float32),
        "zero": np.array(zero_point),
    }
    values = {
        name: ir.Value(
            name=name, type=ir.TensorType(ir.tensor(array).dtype), shape=ir.Shape(array.shape),
            const_value=ir.tensor(array, name=name),
        )
        for name, array in held.items()
    }  # fmt: skip
    scales = [values["scale"], values["zero"]]
    nodes = [ir.node("QuantizeLinear", [values["weight"], *scales]), ir.node("QuantizeLinear", [x, *scales])]
    nodes += [ir.node("DequantizeLinear", [node.outputs[0], *scales]) for node in nodes]
    nodes.append(ir.node("Add", [nodes[2].outputs[0], nodes[3].outputs[0]]))
    for index, node in enumerate(nodes):
        node.name, node.outputs[0].name = f"node_{index}", f"value_{index}"
    output = nodes[-1].outputs[0]
    output.type, output.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["n"])
    graph = ir.Graph(
        [x], [output], nodes=nodes, initializers=list(values.values()), opset_imports={"": 17}, name="rounding"
    )
    return ir.Model(graph, ir_version=8)


def _run(model, x):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    data = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize(("zero_point", "bits"), [(np.int8(0), 16), (np.uint8(128), 16), (np.uint8(0), 15)])
@pytest.mark.parametrize("scale", [1.0, 2.0**-5, 2.0**7])
def test_halves_go_up_and_nothing_else_changes(scale, zero_point, bits):
    limits = np.iinfo(zero_point.dtype)
    # What a shift by so many bits can round: around every half the nearest ones, and some of all others.
    halves = np.arange(-140, 255) + 0.5
    near = np.concatenate([halves + offset * 2.0**-bits for offset in (-2, -1, 0, 1, 2)])
    others = np.random.default_rng(0).integers(-140 * 2**bits, 255 * 2**bits, 20_000) / 2.0**bits
    steps = np.concatenate([near, others])
    x = (steps * scale).astype(np.float32)
    assert np.array_equal(x, steps * scale)
    model = _graph(scale, zero_point)
    even = _run(model, x)
    assert round_halves_up(model) == 1
    up = _run(model, x)
    wanted = np.clip(np.floor(steps + 0.5) + zero_point, limits.min, limits.max) - zero_point
    np.testing.assert_array_equal(up / scale, wanted)  # the constant's half goes to even: to zero
    halves = steps % 1 == 0.5
    assert np.array_equal(even[~halves], up[~halves])
    assert (even != up).any()
