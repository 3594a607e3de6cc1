"""How large a batch and how long a text may be: as asked for, else the graph's, the profile's and the model's least."""

import pytest

from builders import altered, graph_spec, profile, tensor_spec, text_spec
from fieldtune.data.limits import CPU_BATCH, batch_limit, length_limit, prefix_batch

SMALL = altered(profile(), training={"batch_size": 3, "max_length": 32})


def ids(batch="batch", sequence="sequence"):
    return [tensor_spec("input_ids", batch, sequence, dtype="int64")]


@pytest.mark.parametrize(
    ("asked", "batch", "expected"),
    [(None, "batch", 3), (7, "batch", 7), (None, 4, 4), (2, 4, 2), (4, 4, 4)],
)
def test_a_batch_is_what_is_asked_for_else_the_graphs_else_the_profiles(asked, batch, expected):
    assert batch_limit(asked, SMALL, ids(batch)) == expected


@pytest.mark.parametrize(
    ("asked", "sequence", "model", "expected"),
    [
        (None, "sequence", 512, 32),
        (None, "sequence", 16, 16),
        (None, 8, 512, 8),
        (64, "sequence", 512, 64),
        (5, 8, 512, 5),
    ],
)
def test_a_text_is_as_long_as_the_least_that_limits_it(asked, sequence, model, expected):
    assert length_limit(asked, SMALL, ids(sequence=sequence), text_spec(max_length=model)) == expected


def test_more_than_a_static_graph_takes_is_refused():
    with pytest.raises(ValueError, match="batch_size is 5; the bundle's graphs are static and take at most 4"):
        batch_limit(5, SMALL, ids(4))
    with pytest.raises(ValueError, match="max_length is 9; the bundle's graphs are static and take at most 8"):
        length_limit(9, SMALL, ids(sequence=8), text_spec())


def test_images_have_no_length():
    pixels = [tensor_spec("pixel_values", "batch", 3, 8, 8)]
    assert length_limit(None, SMALL, pixels, None) is None
    with pytest.raises(ValueError, match="max_length is 9; the bundle takes images, which have no length in tokens"):
        length_limit(9, SMALL, pixels, None)


@pytest.mark.parametrize(("batch", "expected"), [(14, 14), ("batch", CPU_BATCH)])
def test_a_prefix_runs_as_many_as_its_graph_takes(batch, expected):
    assert prefix_batch(graph_spec("prefix", inputs=(tensor_spec("x", batch, 3),))) == expected
