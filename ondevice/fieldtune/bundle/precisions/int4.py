"""int4 on the device: a code less the zero point of its block, times the block's scale."""

from collections.abc import Mapping

import numpy as np

from fieldtune.bundle.layout import FloatArray
from fieldtune.bundle.precisions.interface import Array, PackedPrecision, Part

_KINDS = ("asymmetric", "symmetric")
_MIDDLE = np.float32(8)


class PackedInt4(PackedPrecision):
    """Codes of four bits with a float32 scale for each block of columns.

    Args:
        block: columns of a block, an even number; the last one of a row is filled up.
        symmetric: whether the code 8 is zero everywhere; else each block has a zero point of its own.
    """

    def __init__(self, block: int, *, symmetric: bool) -> None:
        if block < 2 or block % 2:
            raise ValueError(f"a block of {block} columns; expected an even number")
        self._block, self._symmetric = block, symmetric

    def parts(self, rows: int, columns: int) -> dict[str, Part]:
        """Return codes, scales and zero points."""
        blocks = -(-columns // self._block)
        parts = {
            "codes": Part("uint8", (rows, blocks, self._block // 2)),
            "scales": Part("float32", (rows * blocks,), "positive"),
        }
        return parts if self._symmetric else {**parts, "zero_points": Part("uint8", (rows * blocks,))}

    def unpack(self, parts: Mapping[str, Array], columns: int, start: int, stop: int) -> FloatArray:
        """Return each code less its zero point, times its scale."""
        pairs = parts["codes"][start:stop]
        count, blocks = pairs.shape[:2]
        values = np.stack((pairs & 15, pairs >> 4), -1).astype(np.float32).reshape(count * blocks, self._block)
        own = slice(start * blocks, stop * blocks)
        values -= _MIDDLE if self._symmetric else parts["zero_points"][own, None].astype(np.float32)
        values *= parts["scales"][own, None]
        return np.ascontiguousarray(values.reshape(count, -1)[:, :columns])


def restored(block: str, kind: str) -> PackedInt4:
    """Return the precision of a recipe's settings."""
    if kind not in _KINDS:
        raise ValueError(f"{kind!r}; expected {' or '.join(_KINDS)}")
    return PackedInt4(int(block), symmetric=kind == "symmetric")
