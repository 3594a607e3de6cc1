"""Which examples go into which batch, and a batch's arrays: pure functions of their arguments."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fieldtune.data.examples import TEXT_CLASSIFICATION, Encoded, IntArray
from fieldtune.errors import InvalidData
from fieldtune.manifest import IGNORE_INDEX, TaskSpec, TensorSpec

WINDOW_BATCHES = 50
"""Sorting by length happens within windows of so many batches: few enough to stay random, enough to group."""


def plan_epoch(
    lengths: npt.ArrayLike, batch_size: int, seed: int, epoch: int, *, group_by_length: bool = False
) -> list[IntArray]:
    """Shuffle the examples of one epoch into batches; every example is in exactly one.

    Args:
        lengths: tokens of each example, shape (examples,).
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
    """Return batch and sequence of a graph's input_ids, None where a dimension is symbolic."""
    for spec in inputs:
        if spec.name == "input_ids" and len(spec.shape) == 2:
            batch, sequence = (size if isinstance(size, int) else None for size in spec.shape)
            return batch, sequence
    return None, None


def collate(
    examples: Sequence[Encoded],
    indices: npt.ArrayLike,
    *,
    task: TaskSpec,
    pad_token_id: int,
    shape: tuple[int | None, int | None] | None,
    inputs: Sequence[TensorSpec],
) -> dict[str, npt.NDArray[np.int64]]:
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
    wanted = {spec.name for spec in inputs}
    return {name: array for name, array in arrays.items() if name in wanted}


def labelled_count(batch: Mapping[str, npt.NDArray[np.int64]]) -> int:
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


def _size(chosen: Sequence[Encoded], shape: tuple[int | None, int | None]) -> tuple[int, int]:
    batch, sequence = shape
    longest = max((len(example.input_ids) for example in chosen), default=0)
    if not chosen:
        raise ValueError("a batch needs at least one example")
    if batch is not None and len(chosen) > batch:
        raise ValueError(f"{len(chosen)} examples for a graph whose batch is {batch}")
    if sequence is not None and longest > sequence:
        raise InvalidData(
            f"an example has {longest} tokens; the graph takes {sequence}: set the maximum length to {sequence}"
        )
    return batch or len(chosen), sequence or longest
