"""Values that tensors take on calibration examples."""

import numpy as np

from fieldtune_offline.accelerators.int8.calibration import channel_ranges, regroup, sample_tensors

TEXT = "test (float[2,3] x) => (float[2,3] y) { a = Neg(x) y = Relu(a) }"


def batch(*rows):
    return {"x": np.array(rows, np.float32)}


def test_samples_come_again_where_the_last_batch_is_not_full():
    feeds = [{"x": np.arange(3), "y": np.arange(10, 13)}, {"x": np.arange(3, 5), "y": np.arange(13, 15)}]
    found = list(regroup(feeds, 2))
    assert [part["x"].tolist() for part in found] == [[0, 1], [2, 3], [4, 0]]
    assert [part["y"].tolist() for part in found] == [[10, 11], [12, 13], [14, 10]]
    assert [part["x"].tolist() for part in regroup(feeds[1:], 5)] == [[3, 4, 3, 4, 3]]
    assert list(regroup([], 2)) == []


def test_every_value_of_a_small_tensor_is_in_its_sample(graph):
    batches = [batch([1, -2, 3], [0, 0, 0]), batch([-9, 1, 1], [1, 1, 1])]
    found = sample_tensors(graph(TEXT), ["x", "a", "y"], batches)
    np.testing.assert_array_equal(found["x"].values, [1, -2, 3, 0, 0, 0, -9, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(found["a"].values, -found["x"].values)
    assert (found["x"].largest, found["a"].largest, found["y"].largest) == (9.0, 9.0, 9.0)
    np.testing.assert_array_equal(found["y"].values, np.maximum(found["a"].values, 0))


def test_of_a_large_tensor_a_part_is_drawn_and_the_largest_value_kept(graph):
    text = "test (float[1,200000] x) => (float[1,200000] y) { y = Neg(x) }"
    values = np.linspace(0, 1, 200_000, dtype=np.float32)[None]
    values[0, 7] = -5
    found = sample_tensors(graph(text), ["y"], [{"x": values}])["y"]
    assert found.values.size == 1 << 17
    assert found.largest == 5.0
    assert abs(found.values[found.values <= 0].mean() + 0.5) < 0.01


def test_a_channels_range_is_over_all_batches(graph):
    batches = [batch([1, -2, 3], [0, 0, 0]), batch([-9, 1, 1], [1, 1, 1])]
    found = channel_ranges(graph(TEXT), ["a", "y"], batches)
    np.testing.assert_array_equal(found["a"], [9, 2, 3])
    np.testing.assert_array_equal(found["y"], [9, 2, 0])
    assert channel_ranges(graph(TEXT), ["a"], []) == {}
