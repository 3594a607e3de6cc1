import numpy as np
import pytest

from fieldtune.bundle.node_tables import Node, NodeTable, Quantization
from fieldtune.compilation.comparison import compare_outputs, output_step

SCALE = 0.25


def _node(op, source, output, quantization=None):
    return Node(
        name=output, op=op, module="", inputs=(source,), outputs=(output,), attributes={}, macs=(),
        quantization=quantization,
    )  # fmt: skip


def _table(*nodes):
    outputs = tuple(node.outputs[0] for node in nodes)
    return NodeTable(graph="prefix", opset=17, inputs=("x",), outputs=outputs, initializers=(), values={}, nodes=nodes)


def _dequantized(output, scales=(SCALE,)):
    quantization = Quantization(
        scale=tuple(scales), zero_point=(0,) * len(scales), axis=None if len(scales) == 1 else 1, dtype="int8"
    )
    return _node("DequantizeLinear", "x", output, quantization)


TABLE = _table(
    _dequantized("direct"),
    _dequantized("before"),
    _node("Transpose", "before", "turned"),
    _node("Reshape", "turned", "reshaped"),
    _node("Relu", "direct", "computed"),
    _dequantized("channels", (0.5, 0.25)),
)


@pytest.mark.parametrize(
    ("name", "step"),
    [("direct", SCALE), ("reshaped", SCALE), ("computed", None), ("channels", None), ("x", None), ("nothing", None)],
)
def test_a_step_is_the_scale_of_what_is_put_out(name, step):
    assert output_step(TABLE, name) == step


def test_differences_are_counted_in_steps():
    expected = np.zeros((4, 25), np.float32)
    found = expected.copy()
    found[0, :3] = SCALE  # three elements off by one LSB, one by two, one by float32's rounding
    found[1, 0] = -2 * SCALE
    found[2, 0] = 1e-6
    (output,) = compare_outputs({"direct": found, "more": found}, {"direct": expected}, TABLE, 1.0)
    assert (output.name, output.step, output.quantized) == ("direct", SCALE, True)
    assert output.largest_lsb == 2
    assert output.differing == pytest.approx(0.04)
    assert output.beyond == pytest.approx(0.01)


def test_what_is_equal_differs_in_nothing():
    array = np.arange(6, dtype=np.float32).reshape(2, 3) * SCALE
    (output,) = compare_outputs({"direct": array.copy()}, {"direct": array}, TABLE, 0.0)
    assert (output.largest_lsb, output.differing, output.beyond) == (0, 0, 0)


def test_an_output_in_float_is_measured_by_its_largest_element():
    expected = np.array([[12.7, 0.0]], np.float32)
    (output,) = compare_outputs({"computed": expected + np.float32(0.3)}, {"computed": expected}, TABLE, 2.0)
    assert not output.quantized
    assert output.step == pytest.approx(0.1)
    assert output.largest_lsb == pytest.approx(3, rel=1e-4)
    assert output.beyond == 1


@pytest.mark.parametrize("found", [np.zeros((2, 3), np.float32), np.full((2, 2), np.nan, np.float32)])
def test_another_shape_and_what_is_no_number_match_nothing(found):
    (output,) = compare_outputs({"direct": found}, {"direct": np.zeros((2, 2), np.float32)}, TABLE, 1e9)
    assert output.largest_lsb == np.inf
    assert output.beyond == 1


def test_an_output_that_is_not_there_is_a_mistake():
    with pytest.raises(ValueError, match="no output direct among those found: other"):
        compare_outputs({"other": np.zeros(1)}, {"direct": np.zeros(1)}, TABLE, 1.0)
