"""Frozen weights of a bundle as float32, some rows at a time, for what is fed of an adapter that depends on them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from fieldtune.adapters.tensors import each_array, each_tensor
from fieldtune.bundle import BaseWeight, FloatArray, PackedWeight
from fieldtune.bundle.precisions import packed_precision
from fieldtune.errors import CorruptFile, listed

Blocks: TypeAlias = Iterator[tuple[int, FloatArray]]
"""Some rows of a weight at a time, behind the number of the first of them."""


def weight_blocks(path: Path, weight: BaseWeight) -> Blocks:
    """Give a weight some rows at a time; one that is not packed is mapped into memory and given whole.

    Args:
        path: of graphs/weights.safetensors.
        weight: as the bundle's layout has it.

    Raises:
        InvalidAdapter: the file cannot be read, or lacks a tensor.
        CorruptFile: packed tensors that are none of this matrix; every fault is listed.
        UnsupportedFormat: a recipe that this release does not know.
    """
    if weight.packed is None:
        for tensor in each_tensor(path, [weight.name]):
            yield 0, tensor
    else:
        yield from _unpacked(path, weight.name, weight.packed)


def _unpacked(path: Path, name: str, packed: PackedWeight) -> Blocks:
    precision = packed_precision(packed.recipe)
    rows, columns = packed.rows, packed.columns
    names = list(precision.parts(rows, columns))
    parts = dict(zip(names, each_array(path, [f"{name}.{part}" for part in names]), strict=True))
    faults = precision.faults(parts, rows, columns)
    if faults:
        raise CorruptFile(
            f"{path}: {name} is no matrix ({rows}, {columns}) packed as {packed.recipe}; copy or build the bundle "
            f"again{listed([f'{name}.{fault}' for fault in faults])}"
        )
    yield from precision.blocks(parts, rows, columns)
