import numpy as np
import pytest

from fieldtune.bundle.layout import Layout
from fieldtune.bundle.manifest import BaseModelSpec, ImageSpec, Manifest, TaskSpec, TensorSpec, TextSpec
from fieldtune.data.batches import (
    batch_of,
    collate,
    collate_images,
    labelled_count,
    plan_epoch,
    plan_evaluation,
    static_shape,
)
from fieldtune.data.examples import Encoded, EncodedImage
from fieldtune.errors import InvalidData

CLASSIFY = TaskSpec(name="text-classification", labels=("no", "yes"))
GENERATE = TaskSpec(name="text-generation", labels=())


def inputs(*names: str, shape: tuple[int | str, ...] = ("batch", "sequence")) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=name, dtype="int64", shape=shape) for name in names)


ALL = inputs("input_ids", "attention_mask", "labels")


def encoded(ids: list[int], labels: int | list[int]) -> Encoded:
    return Encoded(input_ids=np.array(ids, np.int64), labels=np.array(labels, np.int64))


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


def test_classification_is_padded_on_the_right() -> None:
    examples = [encoded([5, 6], 1), encoded([7], -100), encoded([8, 9, 4], 0)]
    batch = collate(examples, [0, 1], task=CLASSIFY, pad_token_id=3, shape=None, inputs=ALL)
    assert {name: array.tolist() for name, array in batch.items()} == {
        "input_ids": [[5, 6], [7, 3]],
        "attention_mask": [[1, 1], [1, 0]],
        "labels": [1, -100],
    }
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}
    assert labelled_count(batch) == 1


def test_generation_is_padded_on_the_right() -> None:
    examples = [encoded([5, 6, 7], [-100, 6, 7]), encoded([8, 9], [8, 9])]
    batch = collate(examples, [1, 0], task=GENERATE, pad_token_id=0, shape=None, inputs=ALL)
    assert batch["input_ids"].tolist() == [[8, 9, 0], [5, 6, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [[8, 9, -100], [-100, 6, 7]]
    assert labelled_count(batch) == 3, "the label of a first token is never predicted"


def test_a_static_graph_gets_padding_rows() -> None:
    batch = collate([encoded([5, 6], 1)], [0], task=CLASSIFY, pad_token_id=3, shape=(3, 4), inputs=ALL)
    assert batch["input_ids"].tolist() == [[5, 6, 3, 3], [3, 3, 3, 3], [3, 3, 3, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert batch["labels"].tolist() == [1, -100, -100]
    texts = collate([encoded([5, 6], [-100, 6])], [0], task=GENERATE, pad_token_id=3, shape=(2, None), inputs=ALL)
    assert texts["labels"].tolist() == [[-100, 6], [-100, -100]]


def test_only_the_graph_s_inputs_are_fed() -> None:
    example = [encoded([5, 6], 1)]
    names = inputs("theta", "input_ids", "attention_mask", "token_type_ids")
    batch = collate(example, [0], task=CLASSIFY, pad_token_id=0, shape=None, inputs=names)
    assert sorted(batch) == ["attention_mask", "input_ids", "token_type_ids"]
    assert batch["token_type_ids"].tolist() == [[0, 0]]


def test_what_does_not_fit_a_static_graph() -> None:
    examples = [encoded([5, 6, 7], 1)] * 2
    with pytest.raises(InvalidData, match="an example has 3 tokens; the graph takes 2: set the maximum length to 2"):
        collate(examples, [0], task=CLASSIFY, pad_token_id=0, shape=(1, 2), inputs=ALL)
    with pytest.raises(ValueError, match="2 examples for a graph whose batch is 1"):
        collate(examples, [0, 1], task=CLASSIFY, pad_token_id=0, shape=(1, 4), inputs=ALL)
    with pytest.raises(ValueError, match="at least one example"):
        collate(examples, [], task=CLASSIFY, pad_token_id=0, shape=(1, 4), inputs=ALL)


def test_static_shapes_are_read_from_the_graph() -> None:
    assert static_shape(inputs("theta", "input_ids")) == (None, None)
    assert static_shape(inputs("input_ids", shape=(4, 128))) == (4, 128)
    assert static_shape(inputs("input_ids", shape=(1, "sequence"))) == (1, None)
    assert static_shape(inputs("pixel_values", shape=(1, 3))) == (None, None)
    assert static_shape(inputs("theta", "pixel_values", shape=(4, 3, 32, 32))) == (4, None)
    assert static_shape(inputs("pixel_values", shape=("batch", 3, 32, 32))) == (None, None)


IMAGE = ImageSpec(height=2, width=1, channels=1, resize=None, resample="nearest", mean=(0.5,), std=(0.5,))
PIXELS = inputs("pixel_values", "labels")


def image(top: int, bottom: int, label: int) -> EncodedImage:
    return EncodedImage(pixels=np.array([[[top], [bottom]]], np.uint8), labels=np.array(label, np.int64))


def manifest(task: TaskSpec, text: TextSpec | None, image: ImageSpec | None) -> Manifest:
    base = BaseModelSpec(id="b", revision=None, sha256="", architecture="", licence=None, dtypes={})
    return Manifest(
        base=base, task=task, method="lora", text=text, image=image, peft_config={}, layout=Layout(()), graphs={},
        parity=(), tools={}, files={},
    )  # fmt: skip


def test_images_are_normalized_and_padded_with_zeros() -> None:
    chosen = [image(0, 255, 1), image(51, 0, -100)]
    batch = collate_images(chosen, image=IMAGE, batch=3, inputs=PIXELS)
    np.testing.assert_allclose(batch["pixel_values"][:, 0, :, 0], [[-1, 1], [-0.6, -1], [0, 0]], atol=1e-6)
    assert batch["pixel_values"].dtype == np.float32
    assert batch["labels"].tolist() == [1, -100, -100]
    assert batch["labels"].dtype == np.int64
    assert labelled_count(batch) == 1
    assert list(collate_images(chosen, image=IMAGE, batch=None, inputs=PIXELS[:1])) == ["pixel_values"]
    with pytest.raises(ValueError, match="2 examples for a graph whose batch is 1"):
        collate_images(chosen, image=IMAGE, batch=1, inputs=PIXELS)
    with pytest.raises(ValueError, match="at least one example"):
        collate_images([], image=IMAGE, batch=None, inputs=PIXELS)


def test_the_manifest_says_what_a_batch_is_made_of() -> None:
    looks = manifest(TaskSpec(name="image-classification", labels=("dark", "light")), None, IMAGE)
    text = TextSpec(max_length=9, pad_token_id=3, stop_token_ids=(), special_tokens={}, chat_template=None)
    reads = manifest(CLASSIFY, text, None)
    images, texts = [image(0, 0, 0), image(255, 255, 1)], [encoded([5, 6], 1), encoded([7], 0)]
    batch = batch_of(images, [1], looks, inputs("pixel_values", "labels", shape=(2, 1, 2, 1)))
    assert batch["pixel_values"].reshape(2, 2).tolist() == [[1, 1], [0, 0]]
    assert batch["labels"].tolist() == [1, -100]
    assert batch_of(texts, [1, 0], reads, ALL)["input_ids"].tolist() == [[7, 3], [5, 6]]
    for examples, other in ((images, reads), (texts, looks)):
        with pytest.raises(TypeError, match=f"the examples were not encoded for {other.task.name}"):
            batch_of(examples, [0], other, ALL)
