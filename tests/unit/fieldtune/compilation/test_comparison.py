import numpy as np
import pytest

from builders import node, node_table, quantization
from fieldtune.compilation.comparison import compare_outputs, output_step

SCALE = 0.25


def _dequantized(output, scales=SCALE, axis=None):
    return node("DequantizeLinear", ["x"], [output], quantization=quantization(scales, axis=axis))


TABLE = node_table(
    _dequantized("direct"),
    _dequantized("before"),
    node("Transpose", ["before"], ["turned"]),
    node("Reshape", ["turned"], ["reshaped"]),
    node("Relu", ["direct"], ["computed"]),
    _dequantized("channels", (0.5, 0.25), axis=1),
    inputs=["x"],
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
