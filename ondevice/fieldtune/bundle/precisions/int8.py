"""int8 on the device: a code times the scale of its row."""

from collections.abc import Mapping

import numpy as np

from fieldtune.bundle.layout import FloatArray
from fieldtune.bundle.precisions.interface import Array, PackedPrecision, Part


class PackedInt8(PackedPrecision):
    """Rows of int8 with one float32 scale each."""

    def parts(self, rows: int, columns: int) -> dict[str, Part]:
        """Return codes and scales."""
        return {"codes": Part("int8", (rows, columns)), "scales": Part("float32", (rows,), "positive")}

    def unpack(self, parts: Mapping[str, Array], columns: int, start: int, stop: int) -> FloatArray:
        """Return each code times its row's scale."""
        matrix: FloatArray = parts["codes"][start:stop].astype(np.float32)
        matrix *= parts["scales"][start:stop, None]
        return matrix


def restored() -> PackedInt8:
    """Return the precision of a recipe."""
    return PackedInt8()
