"""nf4: the precision of QLoRA, packed as bitsandbytes packs it, with ONNX Runtime's own operator for it.

ONNX Runtime unpacks NF4 inside of a product only, and of a transposed matrix only. Going backward, the product is with
an identity of 16 columns: it gives the flat values, 16 a column, from the one copy that there is.
"""

import numpy as np
import torch

from fieldtune_offline.lowering.builder import Tensor
from fieldtune_offline.lowering.call import Call
from fieldtune_offline.precisions.interface import PackedInputs, Parts, Precision
from fieldtune_offline.precisions.nf4_codec import BLOCK, DYNAMIC_MAP, NESTED_BLOCK, dequantize, quantize, scales_of

_PRODUCT = "com.microsoft::MatMulBnb4"
_NF4 = 1
"""What ``MatMulBnb4`` calls the type."""
_IDENTITY = 16


class Nf4(Precision):
    """Codes of normal quantiles with a scale per 64 values.

    Args:
        double: whether the scales are quantized, too.
    """

    name = "nf4"

    def __init__(self, *, double: bool = True) -> None:
        self.double = double
        self.part_names = ("codes", "scales", "nested", "offset") if double else ("codes", "scales")

    @property
    def recipe(self) -> str:
        """Name, block and kind of scale."""
        return f"{self.name}/{BLOCK}/{'double' if self.double else 'single'}"

    def refusal(self, rows: int, columns: int) -> str | None:
        """Refuse what the identity does not divide."""
        if columns % _IDENTITY:
            return f"{columns} columns are no multiple of {_IDENTITY}"
        return None

    def pack(self, matrix: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return codes, scales and, doubly quantized, what these are scaled by."""
        return quantize(matrix, double=self.double)

    def cut(self, parts: Parts, rows: slice, columns: int) -> Parts:
        """Cut the codes, and the scales as they are in float32."""
        first, last = rows.start * columns, rows.stop * columns
        return parts[0][first // 2 : -(-last // 2)], scales_of(parts)[first // BLOCK : -(-last // BLOCK)]

    def unpack(self, parts: Parts, rows: int, columns: int) -> torch.Tensor:
        """Return what bitsandbytes makes of them."""
        return dequantize(parts, rows, columns)

    def lower_matrix(self, call: Call, packed: PackedInputs) -> Tensor:
        """Multiply with an identity."""
        build, count = call.build, packed.rows * packed.columns // _IDENTITY
        identity = build.constant(np.eye(_IDENTITY), torch.float32)
        columns = self._multiplied(call, identity, packed, (_IDENTITY, count))
        return call.shapes.reshape(build.transpose(columns, (1, 0)), (packed.rows, packed.columns))

    def lower_product(self, call: Call, x: Tensor, packed: PackedInputs) -> Tensor:
        """Unpack inside of the product."""
        return self._multiplied(call, x, packed, (packed.columns, packed.rows))

    def _multiplied(self, call: Call, x: Tensor, packed: PackedInputs, shape: tuple[int, int]) -> Tensor:
        """Multiply with the codes as a transposed matrix of some shape (columns, rows)."""
        columns, rows = shape
        inputs = [x, packed.parts[0], self._lower_scales(call, packed)]
        settings = {"K": columns, "N": rows, "block_size": BLOCK, "quant_type": _NF4}
        return call.build.op(_PRODUCT, inputs, torch.float32, (x.dims[0], rows), **settings)

    def _lower_scales(self, call: Call, packed: PackedInputs) -> Tensor:
        """Emit the scale of each block; doubly quantized, in the order in which bitsandbytes rounds."""
        if not self.double:
            return packed.parts[1]
        build = call.build
        _, codes, nested, offset = packed.parts
        (blocks,), (groups,) = codes.dims, nested.dims
        assert isinstance(groups, int)
        table, places = build.constant(DYNAMIC_MAP.numpy(), torch.float32), build.cast(codes, torch.int32)
        mapped = build.op("Gather", [table, places], torch.float32, (blocks,))
        spread = call.shapes.expand(call.shapes.reshape(nested, (groups, 1)), (groups, NESTED_BLOCK))
        flat = call.shapes.reshape(spread, (groups * NESTED_BLOCK,))
        bounds = [build.constant([bound], torch.int64) for bound in (0, blocks)]
        factors = flat if blocks == flat.dims[0] else build.op("Slice", [flat, *bounds], torch.float32, (blocks,))
        product = build.op("Mul", [mapped, factors], torch.float32, (blocks,))
        return build.op("Add", [product, offset], torch.float32, (blocks,))


def restored(_block: str, scale: str) -> Nf4:
    """Return the precision of a recipe's settings."""
    return Nf4(double=scale == "double")


def chosen(*, double_quant: bool = True) -> Nf4:
    """Return the precision as a build asks for it."""
    return Nf4(double=double_quant)
