"""How a weight of a merged graph comes about."""

import numpy as np
import onnx_ir as ir
import pytest

from fieldtune_offline.passes.merged_tensor import MergedTensor, held_tensor, unbound

HELD = np.array([[1, 2], [3, 4]], np.float32)
FED = {"a": np.array([[5, 6], [7, 8]], np.float32)}


@pytest.fixture
def weight():
    """An initializer of a graph."""
    value = ir.Value(name="w", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape((2, 2)))
    value.const_value = ir.tensor(HELD, name="w")
    return value


def added(value, fed):
    return value + fed["a"]


def test_a_weight_that_nothing_changes_is_the_bundles(weight):
    found = held_tensor(weight)
    assert (found.name, found.shape) == ("w", (2, 2))
    np.testing.assert_array_equal(found.values(FED), HELD)


def test_what_the_adapter_has_takes_its_place(weight):
    np.testing.assert_array_equal(held_tensor(weight, key="a").values(FED), FED["a"])
    np.testing.assert_array_equal(held_tensor(weight, key="b").values(FED), HELD)


def test_an_update_is_made_of_what_stands_there(weight):
    held = MergedTensor(name="w", held=weight.const_value, shape=(2, 2), update=added)
    np.testing.assert_array_equal(held.values(FED), HELD + FED["a"])
    replaced = MergedTensor(name="w", held=weight.const_value, shape=(2, 2), key="a", update=added)
    np.testing.assert_array_equal(replaced.values(FED), 2 * FED["a"])


def test_a_weight_that_there_was_not_starts_from_zeros():
    new = MergedTensor(name="bias", held=None, shape=(2, 2))
    np.testing.assert_array_equal(new.values({}), np.zeros((2, 2)))
    assert new.values({}).dtype == np.float32
    np.testing.assert_array_equal(MergedTensor(name="b", held=None, shape=(2, 2), update=added).values(FED), FED["a"])


def test_a_value_like_another_holds_nothing(weight):
    made = unbound("v", weight)
    assert (made.name, made.type, made.shape, made.const_value) == ("v", weight.type, weight.shape, None)
