"""How far graphs are from torch, as figures and faults."""

import numpy as np
import pytest

from fieldtune_offline.parity.whole import compare_gradients, relative_difference


@pytest.mark.parametrize(
    ("values", "expected", "difference"),
    [
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([1.0, -3.0], [1.0, -4.0], 0.25),
        ([0.5], [0.0], 0.5),
        ([], [], 0.0),
        ([1.0], [1.0, 2.0], float("inf")),
        (2.0, [2.0], float("inf")),
    ],
)
def test_differences_are_relative_to_the_largest_expected_element(values, expected, difference):
    assert relative_difference(values, expected) == difference


def test_no_number_is_no_difference_that_could_pass():
    assert not relative_difference([float("nan")], [1.0]) <= 1e9


def arrays(**values):
    return {key: np.array(value, np.float32) for key, value in values.items()}


def test_each_tensor_is_measured_by_its_own_largest_element():
    expected = arrays(a=[100.0, 0.0], b=[0.01, 0.0])
    found = compare_gradients(arrays(a=[100.0, 0.001], b=[0.01, 0.001]), expected, 1e-4)
    assert found.worst == pytest.approx(0.1)
    assert found.faults == ("the gradient of b differs by 1.0e-01 of its largest element",)
    assert found.vanishing == ()


def test_a_gradient_that_torch_has_and_the_graph_has_not_is_a_fault():
    found = compare_gradients(arrays(a=[1.0], b=[0.0]), arrays(a=[1.0], b=[1e-3]), 2.0)
    assert found.faults == ("the gradient of b is zero",)


def test_what_vanishes_is_measured_by_the_largest_of_all_tensors():
    expected = arrays(a=[10.0], b=[1e-9])
    found = compare_gradients(arrays(a=[10.0], b=[2e-9]), expected, 1e-4)
    assert (found.vanishing, found.faults) == (("b",), ())
    assert compare_gradients(arrays(a=[10.0], b=[0.1]), expected, 1e-4).faults


def test_gradients_that_all_vanish_prove_nothing():
    found = compare_gradients(arrays(a=[0.0], b=[0.0]), arrays(a=[0.0], b=[0.0]), 1e-4)
    assert found.faults == ("every gradient is zero",)
