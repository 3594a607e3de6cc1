import numpy as np
import pytest

from builders import image_spec, tensor_spec
from fieldtune.bundle.manifest import TensorSpec
from fieldtune.data.batches import batch_of, plan_epoch, plan_evaluation, static_shape
from fieldtune.data.examples import Encoded
from fieldtune.data.images import encoded_image
from fieldtune.errors import InvalidData


def inputs(*names: str, shape: tuple[int | str, ...] = ("batch", "sequence"), pad: int = 0) -> tuple[TensorSpec, ...]:
    return tuple(tensor_spec(name, *shape, dtype="int64", pad=pad) for name in names)


def classify(pad: int = 0, shape: tuple[int | str, int | str] = ("batch", "sequence")) -> tuple[TensorSpec, ...]:
    """What a graph takes that learns a class a text."""
    texts = (*inputs("input_ids", shape=shape, pad=pad), *inputs("attention_mask", shape=shape))
    return (*texts, *inputs("labels", shape=shape[:1], pad=-100))


def generate(pad: int = 0, shape: tuple[int | str, int | str] = ("batch", "sequence")) -> tuple[TensorSpec, ...]:
    """What a graph takes that learns a label a token."""
    texts = (*inputs("input_ids", shape=shape, pad=pad), *inputs("attention_mask", shape=shape))
    return (*texts, *inputs("labels", shape=shape, pad=-100))


def encoded(ids: list[int], labels: int | list[int]) -> Encoded:
    arrays = {"input_ids": np.array(ids, np.int64), "labels": np.array(labels, np.int64)}
    return Encoded(arrays=arrays, weight=1, length=len(ids))


def test_a_plan_is_the_same_for_ever() -> None:
    # NumPy 1.26 and 2.4 give these: a run can be repeated, or continued, on another machine.
    plan = plan_epoch([1] * 10, 4, seed=7, epoch=2)
    assert [batch.tolist() for batch in plan] == [[1, 5, 3, 4], [6, 9, 0, 8], [2, 7]]
    grouped = plan_epoch(range(10, 0, -1), 2, seed=7, epoch=2, group_by_length=True)
    assert [batch.tolist() for batch in grouped] == [[1, 0], [5, 4], [3, 2], [7, 6], [9, 8]]
    assert {batch.dtype for batch in plan} == {np.dtype(np.int64)}


def test_grouping_puts_like_lengths_together() -> None:
    lengths = np.random.Generator(np.random.PCG64(0)).integers(1, 100, 1000)
    padded = {
        grouped: sum(
            int(lengths[batch].max()) * len(batch)
            for batch in plan_epoch(lengths, 8, seed=0, epoch=0, group_by_length=grouped)
        )
        for grouped in (False, True)
    }
    assert padded[True] < 1.05 * lengths.sum()
    assert padded[False] > 1.5 * lengths.sum()
    firsts = [int(lengths[batch[0]]) for batch in plan_epoch(lengths, 8, seed=0, epoch=0, group_by_length=True)]
    assert firsts != sorted(firsts), "batches come in no order of length"


def test_evaluation_goes_by_length() -> None:
    assert [batch.tolist() for batch in plan_evaluation([3, 1, 2, 1, 5], 2)] == [[1, 3], [2, 0], [4]]
    assert plan_evaluation([], 2) == []


def test_batches_of_no_size() -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        plan_epoch([1], 0, seed=0, epoch=0)
    with pytest.raises(ValueError, match=r"lengths has shape \(1, 1\)"):
        plan_evaluation([[1]], 1)


def test_classes_are_padded_on_the_right() -> None:
    examples = [encoded([5, 6], 1), encoded([7], -100), encoded([8, 9, 4], 0)]
    batch = batch_of(examples, [0, 1], classify(pad=3))
    assert {name: array.tolist() for name, array in batch.items()} == {
        "input_ids": [[5, 6], [7, 3]],
        "attention_mask": [[1, 1], [1, 0]],
        "labels": [1, -100],
    }
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}


def test_labels_of_tokens_are_padded_on_the_right() -> None:
    examples = [encoded([5, 6, 7], [-100, 6, 7]), encoded([8, 9], [8, 9])]
    batch = batch_of(examples, [1, 0], generate())
    assert batch["input_ids"].tolist() == [[8, 9, 0], [5, 6, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [[8, 9, -100], [-100, 6, 7]]


def test_a_static_graph_gets_padding_rows() -> None:
    batch = batch_of([encoded([5, 6], 1)], [0], classify(pad=3, shape=(3, 4)))
    assert batch["input_ids"].tolist() == [[5, 6, 3, 3], [3, 3, 3, 3], [3, 3, 3, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert batch["labels"].tolist() == [1, -100, -100]
    texts = batch_of([encoded([5, 6], [-100, 6])], [0], generate(pad=3, shape=(2, "sequence")))
    assert texts["labels"].tolist() == [[-100, 6], [-100, -100]]


def test_a_shape_that_is_given_takes_the_place_of_the_graph_s() -> None:
    batch = batch_of([encoded([5, 6], 1)], [0], classify(pad=3), shape=(3, 4))
    assert batch["input_ids"].tolist() == [[5, 6, 3, 3], [3, 3, 3, 3], [3, 3, 3, 3]]
    assert batch["labels"].tolist() == [1, -100, -100]
    batch = batch_of([encoded([5, 6], 1)], [0], classify(pad=3, shape=(3, "sequence")), shape=(None, 4))
    assert batch["input_ids"].tolist() == [[5, 6, 3, 3]]


def test_only_the_graph_s_inputs_are_fed() -> None:
    names = inputs("theta", "input_ids", "attention_mask", "token_type_ids")
    batch = batch_of([encoded([5, 6], 1)], [0], names)
    assert sorted(batch) == ["attention_mask", "input_ids", "token_type_ids"]
    assert batch["token_type_ids"].tolist() == [[0, 0]]


def test_inputs_of_any_name_and_dtype_are_padded_as_the_graph_says() -> None:
    spans = [np.array(values, np.int64) for values in ([4, 5], [6])]
    boxes = [np.full((count, 2), count, np.float32) for count in (1, 2)]
    examples = [Encoded(arrays={"spans": span, "boxes": box}, weight=1) for span, box in zip(spans, boxes, strict=True)]
    wanted = (
        tensor_spec("spans", "batch", "spans", dtype="int64", pad=-1),
        tensor_spec("boxes", "batch", "boxes", 2, pad=9),
    )
    batch = batch_of(examples, [0, 1], wanted)
    assert batch["spans"].tolist() == [[4, 5], [6, -1]]
    assert batch["boxes"].tolist() == [[[1, 1], [9, 9]], [[2, 2], [2, 2]]]
    assert batch["boxes"].dtype == np.float32


def test_what_does_not_fit_a_static_graph() -> None:
    examples = [encoded([5, 6, 7], 1)] * 2
    with pytest.raises(InvalidData, match="an example has 3 tokens; the graph takes 2: set the maximum length to 2"):
        batch_of(examples, [0], classify(shape=(1, 2)))
    with pytest.raises(InvalidData, match="an example has 3 tokens; the graph takes 2: set the maximum length to 2"):
        batch_of(examples, [0], classify(), shape=(1, 2))
    with pytest.raises(ValueError, match="2 examples for a graph whose batch is 1"):
        batch_of(examples, [0, 1], classify(shape=(1, 4)))
    with pytest.raises(ValueError, match="at least one example"):
        batch_of(examples, [], classify(shape=(1, 4)))


def test_static_shapes_are_read_from_the_graph() -> None:
    assert static_shape(inputs("theta", "input_ids")) == (None, None)
    assert static_shape(inputs("input_ids", shape=(4, 128))) == (4, 128)
    assert static_shape(inputs("input_ids", shape=(1, "sequence"))) == (1, None)
    assert static_shape(inputs("pixel_values", shape=(1, 3))) == (None, None)
    assert static_shape(inputs("theta", "pixel_values", shape=(4, 3, 32, 32))) == (4, None)
    assert static_shape(inputs("pixel_values", shape=("batch", 3, 32, 32))) == (None, None)


IMAGE = image_spec(2, 1, 1, resample="nearest", std=(0.5,))


def pixels(batch: int | str = "batch") -> tuple[TensorSpec, ...]:
    return (tensor_spec("pixel_values", batch, 1, 2, 1), *inputs("labels", shape=(batch,), pad=-100))


def image(top: int, bottom: int, label: int | None) -> Encoded:
    return encoded_image(np.array([[[top], [bottom]]], np.uint8), label)


def test_images_are_normalized_and_padded_with_zeros() -> None:
    chosen = [image(0, 255, 1), image(51, 0, None)]
    batch = batch_of(chosen, [0, 1], pixels(3), image=IMAGE)
    np.testing.assert_allclose(batch["pixel_values"][:, 0, :, 0], [[-1, 1], [-0.6, -1], [0, 0]], atol=1e-6)
    assert batch["pixel_values"].dtype == np.float32
    assert batch["labels"].tolist() == [1, -100, -100]
    assert batch["labels"].dtype == np.int64
    assert list(batch_of(chosen, [0, 1], pixels()[:1], image=IMAGE)) == ["pixel_values"]
    assert list(batch_of(chosen, [0, 1], pixels()[1:], image=IMAGE)) == ["labels"]
    with pytest.raises(ValueError, match="2 examples for a graph whose batch is 1"):
        batch_of(chosen, [0, 1], pixels(1), image=IMAGE)
    with pytest.raises(ValueError, match="at least one example"):
        batch_of([], [], pixels(), image=IMAGE)


def test_the_graph_s_inputs_say_what_a_batch_is_made_of() -> None:
    images, texts = [image(0, 0, 0), image(255, 255, 1)], [encoded([5, 6], 1), encoded([7], 0)]
    batch = batch_of(images, [1], pixels(2), image=IMAGE)
    assert batch["pixel_values"].reshape(2, 2).tolist() == [[1, 1], [0, 0]]
    assert batch["labels"].tolist() == [1, -100]
    assert batch_of(texts, [1, 0], classify(pad=3))["input_ids"].tolist() == [[7, 3], [5, 6]]
    # Nothing stands in for what examples of another task do not have.
    assert list(batch_of(images, [0], classify(), image=IMAGE)) == ["labels"]
    assert list(batch_of(texts, [0], pixels(), image=IMAGE)) == ["labels"]
