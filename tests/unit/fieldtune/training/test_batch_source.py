"""What graphs are fed with: examples as they are, or what the frozen prefix gives for them, each computed once."""

import numpy as np
import pytest

from builders import (
    BOUNDARY,
    CPU,
    graph_spec,
    image_spec,
    manifest,
    split_tables,
    table_text,
    tensor_spec,
    write_bundle,
)
from builders import profile as board
from fieldtune.activations.settings import CacheSettings
from fieldtune.bundle import IGNORE_INDEX
from fieldtune.bundle.manifest import SplitSpec
from fieldtune.data.examples import Encoded, EncodedSet
from fieldtune.runtime.providers import choose_provider
from fieldtune.training.batch_source import open_batches

pytest.importorskip("onnxruntime")

PREFIX = "prefix (float[batch,3,8,8] pixel_values) => (float[batch,16,8,8] b) { b = Conv(pixel_values, w) }"
PIXELS, LABELS = tensor_spec("pixel_values", "batch", 3, 8, 8), tensor_spec("labels", "batch", dtype="int64", pad=-100)
IN_MEMORY = CacheSettings(activation_cache="memory")


@pytest.fixture
def bundle(tmp_path, onnx_bytes):
    """A split bundle whose prefix sums the channels of an image, sixteen times."""
    inputs = {"prefix": (PIXELS,), "suffix": (BOUNDARY, LABELS)}
    tables = list(split_tables())
    graphs = {
        table.graph: graph_spec(
            table.graph,
            inputs=inputs.get(table.graph.partition("_")[0], (PIXELS, LABELS)),
            outputs=(BOUNDARY,) if table.graph == "prefix" else (),
        )
        for table in tables
    }
    described = manifest(
        task="image-classification",
        image=image_spec(mean=(0.0,) * 3, std=(1.0,) * 3),
        graphs=graphs,
        split=SplitSpec(boundary=(BOUNDARY,)),
    )
    contents = {graphs[table.graph].nodes: table_text(table).encode() for table in tables}
    contents[graphs["prefix"].path] = onnx_bytes(PREFIX, w=np.ones((16, 3, 1, 1), np.float32))
    return write_bundle(tmp_path, described, contents)


def images(*levels):
    return EncodedSet(
        examples=tuple(
            Encoded(
                arrays={"pixel_values": np.full((3, 8, 8), level, np.uint8), "labels": np.array(number % 2)}, weight=1.0
            )
            for number, level in enumerate(levels)
        )
    )


@pytest.fixture
def opened(bundle):
    """The function that opens what a run on the CPU is fed with."""
    return lambda settings=IN_MEMORY, **more: open_batches(
        bundle, board(), choose_provider(board(), [CPU]), settings, **more
    )


def test_suffix_graphs_get_the_boundary_and_labels_beside_it(opened):
    with opened() as source:
        assert source.graphs["gradient"] == "suffix_gradient"
        batch = source.batch("gradient", images(255, 0, 51), np.array([2, 0]))
    assert batch.keys() == {"b", "labels"}
    np.testing.assert_array_equal(batch["labels"], [0, 0])
    np.testing.assert_allclose(batch["b"][:, 0, 0, 0], [3 * 51 / 255, 3], rtol=1e-6)
    assert batch["b"].shape == (2, 16, 8, 8)


def test_an_example_goes_through_the_prefix_once(opened):
    examples = images(1, 2, 3, 2)
    with opened() as source:
        first = source.batch("gradient", examples, np.array([0, 1, 3]))
        # The fourth is the second again: the same image, by another name.
        assert (source.counts.hits, source.counts.misses) == (0, 3)
        assert source.split.activations.samples == 2
        again = source.batch("eval", examples, np.array([3, 1, 0, 2]))
        assert (source.counts.hits, source.counts.misses) == (3, 4)
        np.testing.assert_array_equal(again["b"][[2, 1, 0]], first["b"])
        other = source.batch("eval", images(9, 2), np.array([1]))
        assert source.counts.hits == 4
        np.testing.assert_array_equal(other["b"][0], first["b"][1])
        assert source.split.boundary_bytes == 4 * 16 * 8 * 8


def test_without_a_cache_it_goes_through_each_time(opened):
    with opened(CacheSettings(activation_cache="off")) as source:
        for _ in range(2):
            batch = source.batch("gradient", images(255, 0), np.array([0, 1]))
        assert (source.counts.hits, source.counts.misses) == (0, 4)
    np.testing.assert_allclose(batch["b"][:, 0, 0, 0], [3, 0])


def test_whole_graphs_get_examples_as_they_are(opened):
    with opened(whole=True) as source:
        assert (source.graphs["gradient"], source.split, source.counts.hits) == ("gradient", None, 0)
        batch = source.batch("gradient", images(255, 0), np.array([1, 0]))
    assert batch.keys() == {"pixel_values", "labels"}
    np.testing.assert_array_equal(batch["pixel_values"][:, 0, 0, 0], [0, 1])
    assert source.batch_size(7) == 7


def test_labels_that_are_missing_are_no_part_of_what_an_example_is_known_by(opened):
    bare = EncodedSet(
        examples=(
            Encoded(
                arrays={"pixel_values": np.full((3, 8, 8), 5, np.uint8), "labels": np.array(IGNORE_INDEX)}, weight=0.0
            ),
        )
    )
    with opened() as source:
        source.batch("eval", images(5), np.array([0]))
        source.batch("eval", bare, np.array([0]))
        assert source.counts.hits == 1
