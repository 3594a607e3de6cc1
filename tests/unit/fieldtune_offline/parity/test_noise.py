"""Noise to compare graphs on: the same each time, in two shapes, with an example that has no label."""

import numpy as np
import pytest

from builders import graph_spec, image_spec, manifest, tensor_spec
from fieldtune.bundle import IGNORE_INDEX
from fieldtune_offline.parity.noise import noise_batches


@pytest.fixture
def batches(tmp_path):
    """The function from the batch size of a bundle for images to its noise."""

    def make(batch="batch"):
        inputs = (
            tensor_spec("pixel_values", batch, 3, 8, 8),
            tensor_spec("labels", batch, dtype="int64", pad=IGNORE_INDEX),
        )
        described = manifest(
            task="image-classification", image=image_spec(), graphs={"eval": graph_spec("eval", inputs=inputs)}
        )
        return noise_batches(tmp_path, described)

    return make


def test_two_shapes_where_sizes_may_vary_and_one_where_not(batches):
    assert [batch["pixel_values"].shape for batch in batches()] == [(3, 3, 8, 8), (2, 3, 8, 8)]
    assert [batch["pixel_values"].shape for batch in batches(4)] == [(4, 3, 8, 8)]


def test_the_last_of_three_or_more_has_no_label(batches):
    first, second = batches()
    assert first["labels"][-1] == IGNORE_INDEX
    assert set(first["labels"][:2]) | set(second["labels"]) <= {0, 1}


def test_it_is_the_same_each_time(batches):
    for one, other in zip(batches(), batches(), strict=True):
        assert one.keys() == other.keys()
        for name, array in one.items():
            np.testing.assert_array_equal(array, other[name])
