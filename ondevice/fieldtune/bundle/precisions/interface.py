"""A precision of packed matrices, as the device knows it: which parts there are, and what they stand for.

A matrix has the shape (rows, columns). What is unpacked equals what the dev box unpacks bit for bit: each value is made
by the same float32 operations in the same order.
"""

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from fieldtune.bundle.layout import FloatArray

Array: TypeAlias = npt.NDArray[Any]
Range: TypeAlias = Literal["any", "finite", "not negative", "positive"]
"""What the values of a part may be; all but the first are finite."""
_MOST_VALUES = 1 << 18
"""Of a block of rows: 1 MB of float32."""


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One of the tensors that a matrix is packed into.

    Attributes:
        dtype: as NumPy names it.
        shape: of it.
        range: of its values.
    """

    dtype: str
    shape: tuple[int, ...]
    range: Range = "any"


class PackedPrecision(abc.ABC):
    """One precision with its settings."""

    @abc.abstractmethod
    def parts(self, rows: int, columns: int) -> dict[str, Part]:
        """Return the parts of a matrix of this shape by their names, in order."""

    @abc.abstractmethod
    def unpack(self, parts: Mapping[str, Array], columns: int, start: int, stop: int) -> FloatArray:
        """Return the rows from ``start`` up to ``stop``, float32 of shape (stop - start, columns).

        Args:
            parts: of the whole matrix, without faults.
            columns: of the matrix.
            start: the first row.
            stop: the row after the last one.
        """

    def faults(self, parts: Mapping[str, Array], rows: int, columns: int) -> list[str]:
        """Return what is wrong with parts that are there: another dtype or shape, scales that are no scales."""
        faults: list[str] = []
        for name, part in self.parts(rows, columns).items():
            found = parts[name]
            if (found.dtype.name, found.shape) != (part.dtype, part.shape):
                expected = f"{part.dtype} of shape {part.shape}"
                faults.append(f"{name} is {found.dtype.name} of shape {found.shape}; expected {expected}")
            elif part.range != "any" and (wrong := ~_within(found, part.range)).any():
                expected = "finite numbers" if part.range == "finite" else f"finite and {part.range} ones"
                faults.append(f"{name} has {wrong.sum()} value(s) such as {found[wrong][0]:g}; expected {expected}")
        return faults

    def blocks(
        self, parts: Mapping[str, Array], rows: int, columns: int, most: int = _MOST_VALUES
    ) -> Iterator[tuple[int, FloatArray]]:
        """Give the matrix some rows at a time, each time with the number of the first one.

        Args:
            parts: of the matrix, without faults.
            rows: of the matrix.
            columns: of the matrix.
            most: values in memory at once; one row at least.
        """
        step = max(1, most // max(columns, 1))
        for start in range(0, rows, step):
            yield start, self.unpack(parts, columns, start, min(start + step, rows))


def _within(values: Array, allowed: Range) -> npt.NDArray[np.bool_]:
    right: npt.NDArray[np.bool_] = np.isfinite(values)
    if allowed == "positive":
        right &= values > 0
    elif allowed == "not negative":
        right &= values >= 0
    return right
