"""Which examples go into which batch, and a batch's arrays: pure functions of their arguments."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fieldtune.bundle import ImageSpec, TensorSpec
from fieldtune.data.examples import Encoded, IntArray
from fieldtune.data.images import normalize
from fieldtune.errors import InvalidData

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
    examples: Sequence[Encoded],
    indices: npt.ArrayLike,
    inputs: Sequence[TensorSpec],
    *,
    image: ImageSpec | None = None,
    shape: tuple[int | None, int | None] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Pad some examples into the arrays of one batch, as a graph's inputs say.

    Where the batch is static, rows that are missing are filled with padding, without a label; of texts, one token of
    such a row is attended to, for a softmax over nothing is not a number.

    Args:
        examples: all of them.
        indices: which ones, shape (rows,).
        inputs: of the graph that is fed: dtype, shape and padding of each. Those that no example has (theta, a cache)
            are left out.
        image: how images are normalized; None where there are none.
        shape: batch and sequence that take the place of the graph's own, None for what may vary.

    Returns:
        Input name → array. Of texts, attention_mask and token_type_ids (zeros) are made where the graph takes them and
        the examples bring none.

    Raises:
        InvalidData: a text is longer than the static sequence.
        TypeError: examples of different kinds.
        ValueError: no index, or more than the static batch.
    """
    chosen = [examples[int(index)] for index in np.atleast_1d(np.asarray(indices))]
    batch, sequence = static_shape(inputs) if shape is None else shape
    rows = _rows(len(chosen), batch)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for spec in inputs:
        cells = [_cell(example, spec.name) for example in chosen]
        present = [cell for cell in cells if cell is not None]
        if present and len(present) < len(cells):
            raise TypeError(f"some of the examples have {spec.name} and some have not: they are of different kinds")
        if present:
            sizes = [_size(spec, axis, present, sequence) for axis in range(1, len(spec.shape))]
            arrays[spec.name] = _stacked(present, rows, sizes, spec, image)
    if "attention_mask" in arrays:
        arrays["attention_mask"][len(chosen) :, 0] = 1
    return arrays


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


def _checked(lengths: npt.ArrayLike, batch_size: int) -> IntArray:
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    sizes = np.asarray(lengths, np.int64)
    if sizes.ndim != 1:
        raise ValueError(f"lengths has shape {sizes.shape}; expected one dimension")
    return sizes


def _split(order: IntArray, size: int) -> list[IntArray]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _rows(count: int, batch: int | None) -> int:
    if not count:
        raise ValueError("a batch needs at least one example")
    if batch is not None and count > batch:
        raise ValueError(f"{count} examples for a graph whose batch is {batch}")
    return batch or count


def _cell(example: Encoded, name: str) -> npt.NDArray[Any] | None:
    """Return what goes into an input; of texts also what follows from the token ids alone."""
    if name in example.arrays or "input_ids" not in example.arrays:
        return example.arrays.get(name)
    if name == "attention_mask":
        return np.ones_like(example.arrays["input_ids"])
    return np.zeros_like(example.arrays["input_ids"]) if name == "token_type_ids" else None


def _size(spec: TensorSpec, axis: int, cells: Sequence[npt.NDArray[Any]], sequence: int | None) -> int:
    """Return an axis of a batch: the graph's own size, else the sequence that is asked for, else the longest cell's."""
    longest, size = max(cell.shape[axis - 1] for cell in cells), spec.shape[axis]
    wanted = size if isinstance(size, int) else sequence if size == "sequence" and sequence is not None else longest
    if longest > wanted and len(spec.shape) > 2:
        raise ValueError(f"{spec.name} of an example has {longest} along axis {axis}; the graph takes {wanted}")
    if longest > wanted:
        raise InvalidData(
            f"an example has {longest} tokens; the graph takes {wanted}: set the maximum length to {wanted}"
        )
    return wanted


def _stacked(
    cells: Sequence[npt.NDArray[Any]], rows: int, sizes: Sequence[int], spec: TensorSpec, image: ImageSpec | None
) -> npt.NDArray[Any]:
    stacked = np.full((rows, *sizes), spec.pad, spec.dtype)
    if image is not None and cells[0].dtype == np.uint8:
        stacked[: len(cells)] = normalize(np.stack(cells), image)
        return stacked
    for row, cell in enumerate(cells):
        place: tuple[Any, ...] = (row, *(slice(size) for size in cell.shape))
        stacked[place] = cell
    return stacked
