"""NF4 on the device: a quantile of the normal distribution times the scale of its block (QLoRA, Dettmers et al. 2023).

Blocks go over the values in the order of rows; a row may end within one.
"""

import functools
from collections.abc import Mapping

import numpy as np

from fieldtune.bundle.layout import FloatArray
from fieldtune.bundle.precisions.interface import Array, PackedPrecision, Part

_KINDS = ("double", "single")
_BLOCK, _NESTED_BLOCK = 64, 256
# Quantiles of the standard normal distribution scaled to [-1, 1], with an exact zero (QLoRA, appendix E).
_NEGATIVE = (1.0, 0.696192801, 0.525073051, 0.394917488, 0.284441382, 0.184773430, 0.0910500363)
_POSITIVE = (0.0795802996, 0.160930201, 0.246112302, 0.337915242, 0.440709829, 0.562617004, 0.722956836, 1.0)
CODEBOOK: FloatArray = np.array([*(-value for value in _NEGATIVE), 0.0, *_POSITIVE], np.float32)
"""What the 16 codes stand for, rising."""


@functools.cache
def dynamic_map() -> FloatArray:
    """Return what the 256 codes of doubly quantized scales stand for, rising: float32 (256,).

    2^i fractions of the decade up to 10^(i - 6), of either sign, 0 and 1. Source: Dettmers 2015, "8-Bit Approximations
    for Parallelism in Deep Learning", §2.1.
    """
    low, high = np.float32(0.1), np.float32(1)
    values = [np.array([0, 1], np.float32)]
    for power in range(7):
        count = 2**power
        # Counted from the nearer end, and rounded once: the same numbers on every processor.
        step, index = np.float64((high - low) / np.float32(count)), np.arange(count + 1, dtype=np.float64)
        rising, falling = np.float64(low) + step * index, np.float64(high) - step * (count - index)
        bounds = np.where(index < (count + 1) // 2, rising, falling).astype(np.float32)
        middles = (bounds[:-1] + bounds[1:]) / np.float32(2) * np.float32(10.0 ** (power - 6))
        values += [middles, -middles]
    return np.sort(np.concatenate(values))


class PackedNf4(PackedPrecision):
    """Codes of normal quantiles with a scale for 64 values.

    Args:
        double: whether the scales are quantized, too.
    """

    def __init__(self, *, double: bool) -> None:
        self._double = double

    def parts(self, rows: int, columns: int) -> dict[str, Part]:
        """Return codes, scales and, doubly quantized, what these are scaled by and shifted by."""
        count = rows * columns
        blocks = -(-count // _BLOCK)
        codes = Part("uint8", (-(-count // 2),))
        if not self._double:
            # A block of zeros has the scale 0.
            return {"codes": codes, "scales": Part("float32", (blocks,), "not negative")}
        return {
            "codes": codes,
            "scales": Part("uint8", (blocks,)),
            "nested": Part("float32", (-(-blocks // _NESTED_BLOCK),), "not negative"),
            "offset": Part("float32", (1,), "finite"),
        }

    def unpack(self, parts: Mapping[str, Array], columns: int, start: int, stop: int) -> FloatArray:
        """Return each code's quantile times the scale of its block."""
        first, last = start * columns, stop * columns
        pairs = parts["codes"][first // 2 : -(-last // 2)]
        codes = np.stack((pairs >> 4, pairs & 15), -1).reshape(-1)[first % 2 :][: last - first]
        block = first // _BLOCK
        scales = self._scales(parts, block, -(-last // _BLOCK))
        matrix: FloatArray = CODEBOOK[codes]
        matrix *= np.repeat(scales, _BLOCK)[first - block * _BLOCK :][: last - first]
        return matrix.reshape(stop - start, columns)

    def _scales(self, parts: Mapping[str, Array], start: int, stop: int) -> FloatArray:
        scales = parts["scales"][start:stop]
        if not self._double:
            return scales
        nested = parts["nested"][np.arange(start, stop) // _NESTED_BLOCK]
        # Rounded twice, as the dev box does it.
        found: FloatArray = dynamic_map()[scales] * nested + parts["offset"]
        return found


def restored(block: str, kind: str) -> PackedNf4:
    """Return the precision of a recipe's settings."""
    if int(block) != _BLOCK:
        raise ValueError(f"a block of {block} values; expected {_BLOCK}")
    if kind not in _KINDS:
        raise ValueError(f"{kind!r}; expected {' or '.join(_KINDS)}")
    return PackedNf4(double=kind == "double")
