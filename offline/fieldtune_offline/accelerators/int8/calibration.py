"""Values that tensors take while a float32 graph runs on calibration examples."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fieldtune_offline.accelerators.int8.positions import Sample
from fieldtune_offline.accelerators.int8.running import open_model

Feeds: TypeAlias = Mapping[str, npt.NDArray[Any]]
_VALUES = 1 << 17
"""Kept of each tensor; a rounding error's mean over so many is known to half a percent."""


def regroup(feeds: Iterable[Feeds], batch: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield the same samples in batches of one size; the first ones again where the last batch is not full."""
    parts = [{name: np.asarray(array) for name, array in each.items()} for each in feeds]
    if not parts:
        return
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    count = len(next(iter(joined.values())))
    for start in range(0, count, batch):
        rows = np.arange(start, start + batch) % count
        yield {name: array[rows] for name, array in joined.items()}


def sample_tensors(model: ir.Model, names: Sequence[str], batches: Sequence[Feeds]) -> dict[str, Sample]:
    """Run a graph and return a sample of each tensor named, drawn evenly over all batches.

    Args:
        model: float32, static.
        names: of its values.
        batches: of the graph's own batch size, at least one.
    """
    computed = [name for name in names if name not in batches[0]]
    session = open_model(model, computed)
    draw = np.random.default_rng(0)
    share = -(-_VALUES // len(batches))
    drawn: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in names}
    largest = dict.fromkeys(names, 0.0)
    for batch in batches:
        values = dict(zip(computed, session.run(computed, dict(batch)), strict=True))
        for name in names:
            flat = (batch if name in batch else values)[name].reshape(-1)
            drawn[name].append(flat if flat.size <= share else flat[draw.integers(0, flat.size, share)])
            largest[name] = max(largest[name], float(np.abs(flat).max(initial=0)))
    return {name: Sample(np.concatenate(drawn[name]), largest[name]) for name in names}


def channel_ranges(
    model: ir.Model, names: Sequence[str], batches: Sequence[Feeds]
) -> dict[str, npt.NDArray[np.float32]]:
    """Run a graph and return the largest absolute value of each channel, of the last axis, of each tensor named.

    Args:
        model: float32, static.
        names: of values that it computes.
        batches: of the graph's own batch size; without any there are no ranges.
    """
    ranges: dict[str, npt.NDArray[np.float32]] = {}
    session = open_model(model, names) if batches else None
    for batch in batches:
        assert session is not None
        for name, array in zip(names, session.run(names, dict(batch)), strict=True):
            largest = np.abs(array).reshape(-1, array.shape[-1]).max(axis=0)
            ranges[name] = np.maximum(ranges[name], largest) if name in ranges else largest
    return ranges
