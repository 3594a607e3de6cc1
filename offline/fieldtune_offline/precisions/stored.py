"""Matrices as the checkpoint stores them, in float32, bfloat16 or float16: the reference that packing is held to."""

import torch

from fieldtune_offline.lowering.builder import Tensor
from fieldtune_offline.lowering.call import Call
from fieldtune_offline.precisions.interface import PackedInputs, Parts, Precision


class Stored(Precision):
    """Nothing is changed: a matrix is cast to float32 for one product; in graphs it is in float32."""

    name = "stored"
    part_names = ("stored",)

    @property
    def recipe(self) -> str:
        """It has no settings."""
        return self.name

    def pack(self, matrix: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return it as it is."""
        return (matrix,)

    def unpack(self, parts: Parts, rows: int, columns: int) -> torch.Tensor:
        """Return it in float32."""
        return parts[0].to(torch.float32)

    def lower_matrix(self, call: Call, packed: PackedInputs) -> Tensor:
        """Cast it."""
        return call.build.cast(packed.parts[0], torch.float32)


def restored() -> Stored:
    """Return the precision of a recipe."""
    return Stored()
