"""Which examples go into which batch, and a batch's arrays: pure functions of their arguments."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fieldtune.bundle.manifest import IGNORE_INDEX, ImageSpec, Manifest, TaskSpec, TensorSpec
from fieldtune.data.examples import TEXT_CLASSIFICATION, Encoded, EncodedImage, IntArray
from fieldtune.data.images import normalize
from fieldtune.errors import InvalidData

Batch: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""The arrays of a batch by the names of a graph's inputs: labels and token ids of int64, pixel_values of float32."""

WINDOW_BATCHES = 50
"""Sorting by length happens within windows of so many batches: few enough to stay random, enough to group."""


def plan_epoch(
    lengths: npt.ArrayLike, batch_size: int, seed: int, epoch: int, *, group_by_length: bool = False
) -> list[IntArray]:
    """Shuffle the examples of one epoch into batches; every example is in exactly one.

    Args:
        lengths: tokens of each example (1 for images), shape (examples,).
        batch_size: examples in a batch; the last one may have fewer.
        seed: at least 0; equal seeds give equal plans on every machine and in every version of NumPy.
        epoch: at least 0; each has an order of its own.
        group_by_length: put examples of like length together, so that less is padded.

    Returns:
        int64 indices of each batch.
    """
    sizes = _checked(lengths, batch_size)
    rng = np.random.Generator(np.random.PCG64([seed, epoch]))
    order = rng.permutation(len(sizes)).astype(np.int64)
    if not group_by_length:
        return _split(order, batch_size)
    windows = _split(order, WINDOW_BATCHES * batch_size)
    batches = [
        batch for window in windows for batch in _split(window[np.argsort(sizes[window], kind="stable")], batch_size)
    ]
    return [batches[index] for index in rng.permutation(len(batches))]


def plan_evaluation(lengths: npt.ArrayLike, batch_size: int) -> list[IntArray]:
    """Sort the examples by length into batches (int64 indices), so that least is padded; no chance is involved."""
    order = np.argsort(_checked(lengths, batch_size), kind="stable").astype(np.int64)
    return _split(order, batch_size)


def static_shape(inputs: Sequence[TensorSpec]) -> tuple[int | None, int | None]:
    """Return batch and sequence of a graph's input_ids, None where a dimension is symbolic; images have no sequence."""
    for spec in inputs:
        if spec.name == "pixel_values" and len(spec.shape) == 4:
            return spec.shape[0] if isinstance(spec.shape[0], int) else None, None
        if spec.name == "input_ids" and len(spec.shape) == 2:
            batch, sequence = (size if isinstance(size, int) else None for size in spec.shape)
            return batch, sequence
    return None, None


def batch_of(
    examples: Sequence[Encoded | EncodedImage],
    indices: npt.ArrayLike,
    manifest: Manifest,
    inputs: Sequence[TensorSpec],
    shape: tuple[int | None, int | None] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of one batch of texts or images.

    Args:
        examples: all of them.
        indices: which ones, shape (rows,).
        manifest: of the bundle.
        inputs: of the graph that is fed; where its shape is static, the batch is filled up.
        shape: batch and sequence that take the place of the graph's own, None for what may vary.

    Raises:
        InvalidData: a text is longer than the static sequence.
        TypeError: texts where the bundle takes images, or the other way round.
        ValueError: no index, or more than the static batch.
    """
    chosen = [examples[int(index)] for index in np.atleast_1d(np.asarray(indices))]
    images = [example for example in chosen if isinstance(example, EncodedImage)]
    texts = [example for example in chosen if isinstance(example, Encoded)]
    shape = static_shape(inputs) if shape is None else shape
    if manifest.image is not None and not texts:
        return collate_images(images, image=manifest.image, batch=shape[0], inputs=inputs)
    if manifest.text is not None and not images:
        pad = manifest.text.pad_token_id
        return collate(texts, range(len(texts)), task=manifest.task, pad_token_id=pad, shape=shape, inputs=inputs)
    raise TypeError(f"the examples were not encoded for {manifest.task.name}")


def collate(
    examples: Sequence[Encoded],
    indices: npt.ArrayLike,
    *,
    task: TaskSpec,
    pad_token_id: int,
    shape: tuple[int | None, int | None] | None,
    inputs: Sequence[TensorSpec],
) -> dict[str, npt.NDArray[Any]]:
    """Pad some examples on the right into the arrays of one batch.

    Args:
        examples: all of them.
        indices: which ones, shape (rows,).
        task: the bundle's.
        pad_token_id: fills short rows, where attention_mask is 0 and labels are -100.
        shape: what batch and sequence must be, where the graph is static. Rows that are missing are filled with
            padding rows: no label, and one attended token, for a softmax over nothing is not a number.
        inputs: the graph's; only those of them that make up a batch are returned (not theta, nor a cache).

    Returns:
        int64 arrays by name: input_ids, attention_mask and token_type_ids (zeros) of shape (batch, sequence), labels of
        shape (batch,) for classification and (batch, sequence) for generation.

    Raises:
        InvalidData: an example is longer than the static sequence.
        ValueError: no index, or more than the static batch.
    """
    chosen = [examples[int(index)] for index in np.atleast_1d(np.asarray(indices))]
    batch, sequence = _size(chosen, shape or (None, None))
    input_ids = np.full((batch, sequence), pad_token_id, np.int64)
    attention_mask = np.zeros((batch, sequence), np.int64)
    classify = task.name == TEXT_CLASSIFICATION
    labels = np.full((batch,) if classify else (batch, sequence), IGNORE_INDEX, np.int64)
    for row, example in enumerate(chosen):
        length = len(example.input_ids)
        input_ids[row, :length] = example.input_ids
        attention_mask[row, :length] = 1
        if classify:
            labels[row] = example.labels
        else:
            labels[row, :length] = example.labels
    attention_mask[len(chosen) :, 0] = 1
    arrays = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "token_type_ids": np.zeros_like(input_ids),
        "labels": labels,
    }
    return _named(arrays, inputs)


def collate_images(
    chosen: Sequence[EncodedImage], *, image: ImageSpec, batch: int | None, inputs: Sequence[TensorSpec]
) -> dict[str, npt.NDArray[Any]]:
    """Normalize some images into the arrays of one batch.

    Args:
        chosen: the images.
        image: the bundle's.
        batch: how many rows there must be, where the graph is static. Rows that are missing are padding rows: zeros,
            without a label.
        inputs: the graph's; only those of them that make up a batch are returned.

    Returns:
        pixel_values, float32, shape (batch, channels, height, width), and labels, int64, shape (batch,).

    Raises:
        ValueError: no image, or more than the static batch.
    """
    rows = _rows(len(chosen), batch)
    labels = np.full((rows,), IGNORE_INDEX, np.int64)
    labels[: len(chosen)] = [int(example.labels) for example in chosen]
    if not any(spec.name == "pixel_values" for spec in inputs):
        # A suffix graph takes none, and normalizing them could cost more than it.
        return _named({"labels": labels}, inputs)
    pixel_values = np.zeros((rows, image.channels, image.height, image.width), np.float32)
    pixel_values[: len(chosen)] = normalize(np.stack([example.pixels for example in chosen]), image)
    return _named({"pixel_values": pixel_values, "labels": labels}, inputs)


def filled_up(arrays: Mapping[str, npt.NDArray[Any]], count: int) -> dict[str, npt.NDArray[Any]]:
    """Return arrays of so many samples: copies of the last one follow where there are fewer.

    Args:
        arrays: an array for each input, at least one and at most ``count`` samples first.
        count: samples of a run.
    """
    return {
        name: array
        if len(array) == count
        else np.concatenate([array, np.repeat(array[-1:], count - len(array), axis=0)])
        for name, array in arrays.items()
    }


def labelled_count(batch: Batch) -> int:
    """Count the labels that enter a batch's loss: of texts all but the first position's, for the model shifts them."""
    labels = batch["labels"]
    return int(np.count_nonzero((labels[:, 1:] if labels.ndim == 2 else labels) != IGNORE_INDEX))


def _checked(lengths: npt.ArrayLike, batch_size: int) -> IntArray:
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    sizes = np.asarray(lengths, np.int64)
    if sizes.ndim != 1:
        raise ValueError(f"lengths has shape {sizes.shape}; expected one dimension")
    return sizes


def _split(order: IntArray, size: int) -> list[IntArray]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _named(arrays: Mapping[str, npt.NDArray[Any]], inputs: Sequence[TensorSpec]) -> dict[str, npt.NDArray[Any]]:
    wanted = {spec.name for spec in inputs}
    return {name: array for name, array in arrays.items() if name in wanted}


def _rows(count: int, batch: int | None) -> int:
    if not count:
        raise ValueError("a batch needs at least one example")
    if batch is not None and count > batch:
        raise ValueError(f"{count} examples for a graph whose batch is {batch}")
    return batch or count


def _size(chosen: Sequence[Encoded], shape: tuple[int | None, int | None]) -> tuple[int, int]:
    batch, sequence = shape
    rows = _rows(len(chosen), batch)
    longest = max(len(example.input_ids) for example in chosen)
    if sequence is not None and longest > sequence:
        raise InvalidData(
            f"an example has {longest} tokens; the graph takes {sequence}: set the maximum length to {sequence}"
        )
    return rows, sequence or longest
