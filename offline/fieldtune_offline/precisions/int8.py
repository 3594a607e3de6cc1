"""int8: one symmetric scale a row; activations are quantized a row at a time, so that products are of integers.

A row of activations has a scale of its own, so that no example depends on its batch mates. The kernels take activations
as uint8 with a zero point of 128: with int8 activations they are ten times slower on x86-64 with VNNI.
"""

import torch

from fieldtune_offline.lowering.builder import Tensor
from fieldtune_offline.lowering.call import Call
from fieldtune_offline.precisions.interface import PackedInputs, Parts, Precision

_MIDDLE = 128
_LARGEST = 127
_TINY = 1e-30
"""The least scale: of a row of zeros, which divides nothing by zero and stays a row of zeros."""


class Int8(Precision):
    """Rows of int8 with one float32 scale each; ``input_gradient`` quantizes the rows of the gradient, too."""

    name = "int8"
    part_names = ("codes", "scales")
    integer = True

    @property
    def recipe(self) -> str:
        """It has no settings."""
        return self.name

    def pack(self, matrix: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return codes (int8, shape (rows, columns)) and scales (float32, shape (rows,))."""
        scales = (matrix.abs().amax(1) / _LARGEST).clamp(min=_TINY)
        codes = torch.round(matrix / scales[:, None]).clamp(-_LARGEST, _LARGEST).to(torch.int8)
        return codes, scales

    def unpack(self, parts: Parts, rows: int, columns: int) -> torch.Tensor:
        """Return each code times its row's scale."""
        codes, scales = parts
        return codes.to(torch.float32) * scales[:, None]

    def product(self, x: torch.Tensor, parts: Parts, rows: int) -> torch.Tensor:
        """Return the scaled product of integers."""
        codes, scales = parts
        quantized, row_scales = _quantized_rows(x)
        return _integer_product(quantized, codes.T) * scales * row_scales

    def input_gradient(self, gradient: torch.Tensor, parts: Parts, columns: int) -> torch.Tensor:
        """Return the scaled product of integers; the rows' scales belong to the gradient's columns here."""
        codes, scales = parts
        quantized, row_scales = _quantized_rows(gradient * scales)
        return _integer_product(quantized, codes) * row_scales

    def lower_matrix(self, call: Call, packed: PackedInputs) -> Tensor:
        """Dequantize each row."""
        codes, scales = packed.parts
        return call.build.op("DequantizeLinear", [codes, scales], torch.float32, codes.dims, axis=0)

    def lower_product(self, call: Call, x: Tensor, packed: PackedInputs) -> Tensor:
        """Transpose the one copy at run time, which takes a tenth of the product's time and half of the memory."""
        codes, scales = packed.parts
        return _lower_product(call, x, call.build.transpose(codes, (1, 0)), scales, packed.rows)

    def lower_input_gradient(self, call: Call, gradient: Tensor, packed: PackedInputs) -> Tensor:
        """Scale the gradient's columns first."""
        codes, scales = packed.parts
        scaled = call.build.op("Mul", [gradient, scales], gradient.dtype, gradient.dims)
        return _lower_product(call, scaled, codes, None, packed.columns)


def gathered_rows(ids: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return rows of a packed matrix, float32: of the shape of the ids, with one axis more."""
    return codes[ids].to(torch.float32) * scales[ids].unsqueeze(-1)


def lower_rows(call: Call, ids: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """Gather codes and scales, and multiply."""
    build, dims = call.build, (*ids.dims, codes.dims[1])
    gathered = build.cast(build.op("Gather", [codes, ids], codes.dtype, dims, axis=0), torch.float32)
    factors = call.shapes.reshape(build.op("Gather", [scales, ids], scales.dtype, ids.dims, axis=0), (*ids.dims, 1))
    return build.op("Mul", [gathered, factors], torch.float32, dims)


def _quantized_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x as integers (int8), and the scale of each row."""
    scales = (x.abs().amax(-1, keepdim=True) * torch.tensor(1 / _LARGEST)).clamp(min=_TINY)
    return torch.round(x / scales).clamp(-_MIDDLE, _LARGEST).to(torch.int8), scales


def _integer_product(quantized: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    flat = quantized.reshape(-1, quantized.shape[-1])
    # Sums of products of bytes in int32, as the kernels have them.
    return torch._int_mm(flat, codes).to(torch.float32).reshape(*quantized.shape[:-1], codes.shape[1])


def _lower_product(call: Call, x: Tensor, codes: Tensor, scales: Tensor | None, width: int) -> Tensor:
    build = call.build
    count = x.dims[0]
    axis = build.constant([-1], torch.int64)
    largest = build.op("ReduceMax", [build.op("Abs", [x], x.dtype, x.dims), axis], x.dtype, (count, 1), keepdims=1)
    scaled = build.op("Mul", [largest, build.constant(1 / _LARGEST, x.dtype)], x.dtype, (count, 1))
    row_scales = build.op("Max", [scaled, build.constant(_TINY, x.dtype)], x.dtype, (count, 1))
    middle = build.constant(_MIDDLE, torch.uint8)
    flat = call.shapes.reshape(row_scales, (count,))
    middles = call.shapes.expand(middle, (count,))
    quantized = build.op("QuantizeLinear", [x, flat, middles], torch.uint8, x.dims, axis=0)
    one = build.constant(1.0, x.dtype)
    inputs = [quantized, codes, one, one if scales is None else scales, middle]
    product = build.op("com.microsoft::MatMulIntegerToFloat", inputs, x.dtype, (count, width))
    return build.op("Mul", [product, row_scales], x.dtype, (count, width))


def restored() -> Int8:
    """Return the precision of a recipe."""
    return Int8()


def chosen() -> Int8:
    """Return the precision as a build asks for it."""
    return Int8()
