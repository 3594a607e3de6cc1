"""float32: a matrix as it is, for what multiplies with a packed one or an unpacked one alike."""

import torch

from fieldtune_offline.lowering.builder import Tensor
from fieldtune_offline.lowering.call import Call
from fieldtune_offline.precisions.interface import PackedInputs, Parts, Precision


class Float32(Precision):
    """Nothing is packed: the only part is the matrix itself."""

    name = "float32"
    part_names = ("weight",)

    @property
    def recipe(self) -> str:
        """It has no settings."""
        return self.name

    def pack(self, matrix: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the matrix."""
        return (matrix,)

    def unpack(self, parts: Parts, rows: int, columns: int) -> torch.Tensor:
        """Return the matrix."""
        del rows, columns
        return parts[0]

    def lower_matrix(self, call: Call, packed: PackedInputs) -> Tensor:
        """Return the matrix."""
        del call
        return packed.parts[0]


def restored() -> Float32:
    """Return the precision of a recipe."""
    return Float32()
