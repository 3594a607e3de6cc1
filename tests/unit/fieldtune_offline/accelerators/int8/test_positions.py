import numpy as np
import pytest

from fieldtune_offline.accelerators.int8.positions import (
    Addition,
    ElementwiseProduct,
    Equal,
    Product,
    Sample,
    ShiftLimits,
    best_position,
    choose_positions,
    covering_position,
    quantization_error,
    refine,
    scale,
)


def sample(values):
    array = np.asarray(values, np.float32)
    return Sample(array, float(np.abs(array).max(initial=0)))


@pytest.mark.parametrize(
    ("largest", "position"),
    [(127.0, 0), (127.1, -1), (63.5, 1), (1.0, 6), (0.9921875, 7), (6.0, 4), (200.0, -1), (0.0, 7), (1e-44, 126)],
)
def test_the_covering_position_is_the_finest_that_clips_nothing(largest, position):
    assert covering_position(largest) == position
    if largest > 1e-30:
        assert largest * 2.0**position <= 127 < largest * 2.0 ** (position + 1)


def test_errors_are_those_of_rounding_and_of_clipping():
    assert quantization_error(np.array([0.25, 0.75, -0.25], np.float32), 0) == pytest.approx(3 * 0.0625 / 3)
    assert quantization_error(np.array([130.0, -130.0], np.float32), 0) == pytest.approx((9 + 4) / 2)
    assert quantization_error(np.array([], np.float32), 0) == 0


def test_a_few_outliers_are_clipped_and_many_are_covered():
    body = np.random.default_rng(0).normal(0, 1, 100_000)
    few = np.concatenate([body, [40.0]])
    many = np.concatenate([body, np.full(20_000, 40.0)])
    assert covering_position(40.0) == 1
    assert best_position(sample(few)) == 2
    assert best_position(sample(many)) == 1


def test_tensors_that_must_be_equal_get_one_position_for_all():
    wide, narrow = sample(np.linspace(-100, 100, 1001)), sample(np.linspace(-0.5, 0.5, 1001))
    samples = {"a": wide, "b": narrow, "c": narrow, "d": narrow}
    found = choose_positions(samples, [Equal(tensors=("a", "b")), Equal(tensors=("b", "c"))])
    assert found["a"] == found["b"] == found["c"] != found["d"]
    assert found["d"] == best_position(narrow) == 8
    assert best_position(sample(np.zeros(5))) == 7


def test_a_shift_above_the_limit_lowers_the_weight():
    binding = Product(data="x", weight="w", result="y")
    found = refine({"x": 7, "w": 12, "y": 1}, [binding], ShiftLimits())
    assert found == {"x": 7, "w": 10, "y": 1}


def test_a_shift_below_zero_lowers_the_result():
    binding = Product(data="x", weight="w", result="y")
    assert refine({"x": 1, "w": 2, "y": 6}, [binding], ShiftLimits()) == {"x": 1, "w": 2, "y": 3}


def test_operands_of_an_addition_come_within_reach_and_so_does_the_result():
    binding = Addition(operands=("a", "b"), result="y")
    assert refine({"a": 12, "b": 1, "y": 20}, [binding], ShiftLimits()) == {"a": 8, "b": 1, "y": 8}


def test_the_result_of_a_multiplication_is_no_finer_than_its_operands_together():
    binding = ElementwiseProduct(operands=("a", "b"), result="y")
    assert refine({"a": 2, "b": 3, "y": 7}, [binding], ShiftLimits()) == {"a": 2, "b": 3, "y": 5}
    assert refine({"a": 30, "b": 9, "y": 1}, [binding], ShiftLimits()) == {"a": 24, "b": 9, "y": 1}


def test_what_one_binding_lowers_the_others_follow():
    bindings = [
        Product(data="x", weight="w", result="y"),
        Addition(operands=("y", "z"), result="s"),
        Equal(tensors=("s", "t")),
        Product(data="t", weight="v", result="u"),
    ]
    found = refine({"x": 5, "w": 8, "y": 12, "z": 2, "s": 9, "t": 3, "v": 0, "u": 5}, bindings, ShiftLimits())
    assert found == {"x": 5, "w": 8, "y": 9, "z": 2, "s": 3, "t": 3, "v": 0, "u": 3}
    assert refine(found, bindings, ShiftLimits()) == found


def test_limits_are_the_profiles_where_it_has_some(accelerator):
    limits = accelerator("kv260").limits
    assert ShiftLimits.of(limits) == ShiftLimits(cut_min=0, cut_max=16, read_max=7)
    assert ShiftLimits.of(accelerator("ryzen-ai-strix").limits) == ShiftLimits()


def test_a_scale_is_a_scalar_and_exact():
    assert scale(3).shape == ()
    assert scale(3).dtype == np.float32
    assert (float(scale(3)), float(scale(-2))) == (0.125, 4.0)
