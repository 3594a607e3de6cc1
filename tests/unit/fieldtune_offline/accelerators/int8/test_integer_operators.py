import itertools

import numpy as np
import pytest

from fieldtune_offline.accelerators.int8.integer_operators import (
    IntegerTensor,
    Sum,
    activate,
    add,
    concatenate,
    convolve,
    multiply,
    multiply_elements,
    pool_average,
    pool_globally,
    pool_maximum,
    stored,
)


def tensor(seed, shape, position, low=-128, high=128):
    return IntegerTensor(np.random.default_rng(seed).integers(low, high, shape), position)


def real(quantized):
    return quantized.values * 2.0**-quantized.position


def value(result):
    return result.numerator * 2.0**-result.position / result.divisor


def test_halves_go_up_or_to_the_even_side():
    sums = Sum(np.array([-20, -12, -10, -6, -4, -2, 0, 2, 3, 4, 6, 10, 12, 20]), 3)
    assert stored(sums, 1, "half up").tolist() == [-5, -3, -2, -1, -1, 0, 0, 1, 1, 1, 2, 3, 3, 5]
    assert stored(sums, 1, "half to even").tolist() == [-5, -3, -2, -2, -1, 0, 0, 0, 1, 1, 2, 2, 3, 5]


def test_what_is_stored_is_saturated_and_may_be_shifted_left():
    assert stored(Sum(np.array([-1000, 1000, 126]), 0), 0, "half up").tolist() == [-128, 127, 126]
    assert stored(Sum(np.array([-3, 5]), 1), 4, "half up").tolist() == [-24, 40]


@pytest.mark.parametrize("divisor", [1, 3, 4, 49])
@pytest.mark.parametrize("shift", [-2, 0, 1, 5])
def test_rounding_is_that_of_exact_fractions(divisor, shift):
    from fractions import Fraction
    from math import floor

    numbers = np.arange(-300, 300)
    result = Sum(numbers, shift, divisor)
    exact = [Fraction(int(number), divisor) / Fraction(2) ** shift for number in numbers]
    up = [min(max(floor(fraction + Fraction(1, 2)), -128), 127) for fraction in exact]
    even = [min(max(round(fraction), -128), 127) for fraction in exact]
    assert stored(result, 0, "half up").tolist() == up
    assert stored(result, 0, "half to even").tolist() == even


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(
    ("stride", "dilation", "pads"), [(1, 1, (0, 0, 0, 0)), (2, 1, (1, 0, 2, 1)), (1, 2, (2, 2, 2, 2))]
)
def test_convolutions_sum_as_written(groups, stride, dilation, pads):
    data, weight = tensor(0, (2, 4, 7, 6), 3), tensor(1, (8, 4 // groups, 3, 2), 5)
    bias = tensor(2, (8,), 8, -1000, 1000)
    attributes = {"group": groups, "strides": (stride, stride), "dilations": (dilation, dilation), "pads": pads}
    found = convolve(data, weight, bias, attributes)
    padded = np.pad(data.values, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    expected = np.zeros_like(found.numerator)
    for image, output, row, column in itertools.product(*map(range, found.numerator.shape)):
        first = output // (8 // groups) * (4 // groups)
        window = padded[image, first : first + 4 // groups, row * stride :: dilation, column * stride :: dilation]
        expected[image, output, row, column] = (window[:, :3, :2] * weight.values[output]).sum() + bias.values[output]
    np.testing.assert_array_equal(found.numerator, expected)
    assert (found.position, found.divisor) == (8, 1)


def test_a_coarser_bias_is_shifted_to_the_sum():
    data, weight = IntegerTensor(np.full((1, 2), 3), 2), IntegerTensor(np.array([[1, 2]]), 4)
    found = multiply(data, weight, IntegerTensor(np.array([5]), 3), {"transB": 1})
    assert found.numerator.tolist() == [[9 + (5 << 3)]]


@pytest.mark.parametrize("transposed", [0, 1])
def test_products_are_of_either_orientation(transposed):
    data, weight = tensor(0, (3, 5, 4), 2), tensor(1, (6, 4) if transposed else (4, 6), 3)
    found = multiply(data, weight, None, {"transB": transposed})
    right = weight.values.T if transposed else weight.values
    np.testing.assert_array_equal(found.numerator, data.values @ right)


def test_a_sum_beyond_32_bits_is_an_error():
    data, weight = IntegerTensor(np.full((1, 200_000), 127), 0), IntegerTensor(np.full((200_000, 1), 127), 0)
    with pytest.raises(OverflowError, match="3225800000 does not fit into the accelerator's 32 bits"):
        multiply(data, weight, None, {})


def test_elementwise_operators_meet_at_exact_positions():
    one, other = tensor(0, (2, 3), 5), tensor(1, (2, 3), -1)
    np.testing.assert_array_equal(value(add([one, other])), real(one) + real(other))
    np.testing.assert_array_equal(value(multiply_elements([one, other])), real(one) * real(other))
    np.testing.assert_array_equal(value(concatenate([one, other], 1)), np.concatenate([real(one), real(other)], 1))


def test_pools_leave_padding_out_or_count_it():
    data = tensor(0, (1, 2, 4, 4), 4, -128, 0)
    attributes = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 0, 0)}
    largest = pool_maximum(data, attributes)
    assert largest.numerator[0, 1, 0, 0] == data.values[0, 1, :2, :2].max() < 0
    mean = pool_average(data, attributes)
    assert value(mean)[0, 0, 0, 0] == pytest.approx(real(data)[0, 0, :2, :2].mean())
    assert value(mean)[0, 0, 1, 1] == pytest.approx(real(data)[0, 0, 1:4, 1:4].mean())
    counted = pool_average(data, {**attributes, "count_include_pad": 1})
    assert value(counted)[0, 0, 0, 0] == pytest.approx(real(data)[0, 0, :2, :2].sum() / 9)
    everything = pool_globally(data)
    np.testing.assert_allclose(value(everything)[:, :, 0, 0], real(data).mean((2, 3)))


@pytest.mark.parametrize("position", [-2, 0, 3, 9])
def test_activations(position):
    result = Sum(np.arange(-5000, 5000, 7), position)
    exact = value(result)
    np.testing.assert_array_equal(value(activate(result, "relu")), np.maximum(exact, 0))
    np.testing.assert_array_equal(value(activate(result, "relu6")), np.clip(exact, 0, 6))
    np.testing.assert_array_equal(value(activate(result, "leaky_relu")), np.where(exact < 0, exact * 26 / 256, exact))


def test_an_activation_behind_a_mean_keeps_its_divisor():
    mean = Sum(np.array([-9, 9, 900]), 2, 3)
    assert value(activate(mean, "relu6")).tolist() == [0, 0.75, 6]
