"""int4: blocks of 32, 64 or 128 along the columns, each with a scale and, unless symmetric, a zero point.

The codes lie as ``MatMulNBits`` takes them, the earlier column of a pair in the low nibble, so that one copy trains and
serves. A product that trains dequantizes them as they lie: all earlier columns of a block, then all later ones. The
activations are put in that order instead, which is far less to move.
"""

import dataclasses

import torch

from fieldtune_offline.lowering.builder import Tensor
from fieldtune_offline.lowering.call import Call
from fieldtune_offline.precisions.interface import PackedInputs, Parts, Precision

BLOCKS = (32, 64, 128)
_LEVELS = 15
_MIDDLE = 8
_AT_ONCE = 2**18
"""Values that are packed together."""
# How far the range of a block is narrowed: its outermost values lose, all others gain. The least error decides.
_NARROWED = (1.0, 0.95, 0.9, 0.85, 0.8)
_PAIRS = torch.stack((torch.arange(256) & 15, torch.arange(256) >> 4), -1).to(torch.float32)
"""What a byte stands for: looked up, it takes half the time of shifting, and a pass over the memory less."""


class Int4(Precision):
    """Codes of four bits with a float32 scale a block.

    Args:
        block: columns of a block; the last one is filled up with zeros.
        symmetric: whether the code 8 is zero everywhere; else each block has a zero point of its own.
    """

    name = "int4"

    def __init__(self, block: int = 64, *, symmetric: bool = False) -> None:
        if block not in BLOCKS:
            raise ValueError(f"block is {block}; expected {', '.join(map(str, BLOCKS))}")
        self.block, self.symmetric = block, symmetric
        self.part_names = ("codes", "scales") if symmetric else ("codes", "scales", "zero_points")

    @property
    def recipe(self) -> str:
        """Name, block and kind of zero point."""
        return f"{self.name}/{self.block}/{'symmetric' if self.symmetric else 'asymmetric'}"

    def blocks(self, columns: int) -> int:
        """Return the number of blocks of a row."""
        return -(-columns // self.block)

    def pack(self, matrix: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return codes, scales and zero points.

        Codes are uint8 of shape (rows, blocks, block / 2); scales float32 and zero points uint8 of (rows × blocks,).
        """
        rows, columns = matrix.shape
        # A part of the rows at a time stays in the processor's caches: three times as fast as all at once.
        at_once = max(1, _AT_ONCE // columns)
        packed = [self._pack_rows(matrix[first : first + at_once]) for first in range(0, rows, at_once)]
        return tuple(map(torch.cat, zip(*packed, strict=True)))

    def _pack_rows(self, matrix: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows, columns = matrix.shape
        filled = torch.nn.functional.pad(matrix, (0, self.blocks(columns) * self.block - columns))
        groups = filled.reshape(-1, self.block)
        best = self._quantized(groups, _NARROWED[0])
        least = self._error(groups, *best)
        for narrowed in _NARROWED[1:]:
            tried = self._quantized(groups, narrowed)
            error = self._error(groups, *tried)
            better = error < least
            least = torch.where(better, error, least)
            codes = torch.where(better[:, None], tried[0], best[0])
            best = (codes, torch.where(better, tried[1], best[1]), torch.where(better, tried[2], best[2]))
        codes, scales, zeros = best
        pairs = codes.reshape(rows, -1, self.block // 2, 2)
        packed = pairs[..., 0] | (pairs[..., 1] << 4)
        return (packed, scales) if self.symmetric else (packed, scales, zeros)

    def cut(self, parts: Parts, rows: slice, columns: int) -> Parts:
        """Cut the codes by rows, and the others by blocks."""
        blocks = self.blocks(columns)
        codes, *others = parts
        return codes[rows], *(part[rows.start * blocks : rows.stop * blocks] for part in others)

    def unpack(self, parts: Parts, rows: int, columns: int) -> torch.Tensor:
        """Return each code less its zero point, times its scale."""
        codes, scales, *zeros = parts
        values = _PAIRS.index_select(0, codes.reshape(-1).int()).reshape(-1, self.block)
        values.sub_(zeros[0][:, None].to(torch.float32) if zeros else _MIDDLE).mul_(scales[:, None])
        return values.reshape(rows, -1)[:, :columns]

    def lower_product(self, call: Call, x: Tensor, packed: PackedInputs) -> Tensor:
        """Multiply with what the codes stand for."""
        return super().lower_product(call, self._reordered(call, _filled_up(call, x, self._width(packed))), packed)

    def lower_served(self, call: Call, x: Tensor, packed: PackedInputs) -> Tensor:
        """Unpack inside of the product, with nothing but the codes to read for a token."""
        build, shapes, rows = call.build, call.shapes, packed.rows
        codes, scales, *zeros = packed.parts
        block, blocks, columns = self.block, self.blocks(packed.columns), packed.columns
        inputs = [codes, scales]
        # All but the scales are small, and computed once, when the graph is loaded.
        if zeros and blocks % 2:
            # 1.16 wants an even number of blocks of a row: of half the size there are twice as many.
            block, columns = block // 2, self._width(packed)
            x = _filled_up(call, x, columns)
            codes = shapes.reshape(codes, (rows, 2 * blocks, block // 2))
            twice = shapes.expand(shapes.reshape(scales, (rows * blocks, 1)), (rows * blocks, 2))
            later = _shifted(call, zeros[0])
            inputs = [codes, shapes.reshape(twice, (rows * blocks * 2,)), _joined(call, zeros[0], later)]
        elif zeros:
            pairs = shapes.reshape(zeros[0], (rows * blocks // 2, 2))
            first, second = (_column(call, pairs, place) for place in (0, 1))
            inputs.append(_joined(call, first, _shifted(call, second)))
        settings = {"K": columns, "N": rows, "bits": 4, "block_size": block}
        return build.op("com.microsoft::MatMulNBits", [x, *inputs], x.dtype, (x.dims[0], rows), **settings)

    def lower_input_gradient(self, call: Call, gradient: Tensor, packed: PackedInputs) -> Tensor:
        """Multiply, and put the columns back in their order."""
        width, count = self._width(packed), gradient.dims[0]
        product = super().lower_input_gradient(call, gradient, dataclasses.replace(packed, columns=width))
        ordered = self._reordered(call, product, back=True)
        if width == packed.columns:
            return ordered
        bounds = [call.build.constant([value], torch.int64) for value in (0, packed.columns, 1)]
        return call.build.op("Slice", [ordered, *bounds], gradient.dtype, (count, packed.columns))

    def _width(self, packed: PackedInputs) -> int:
        return self.blocks(packed.columns) * self.block

    def lower_matrix(self, call: Call, packed: PackedInputs) -> Tensor:
        """Emit the matrix, float32, (rows, blocks × block), its columns as they lie."""
        build = call.build
        codes, scales, *zeros = packed.parts
        groups, half = packed.rows * self.blocks(packed.columns), self.block // 2
        flat = call.shapes.reshape(codes, (groups, half))
        nibbles = [
            build.op("BitwiseAnd", [flat, build.constant(15, torch.uint8)], torch.uint8, flat.dims),
            build.op("BitShift", [flat, build.constant(4, torch.uint8)], torch.uint8, flat.dims, direction="RIGHT"),
        ]
        joined = build.op("Concat", nibbles, torch.uint8, (groups, self.block), axis=1)
        middle = zeros[0] if zeros else call.shapes.expand(build.constant(_MIDDLE, torch.uint8), (groups,))
        inputs = [joined, scales, middle]
        matrix = build.op("DequantizeLinear", inputs, torch.float32, (groups, self.block), axis=0)
        return call.shapes.reshape(matrix, (packed.rows, self._width(packed)))

    def _reordered(self, call: Call, x: Tensor, *, back: bool = False) -> Tensor:
        """Put the earlier columns of each block's pairs before the later ones, or back in turn.

        With more than one thread, ONNX Runtime 1.32 takes 40 times as long to transpose so many small matrices.
        """
        count, width = x.dims
        assert isinstance(width, int)
        groups, half = count * (width // self.block), self.block // 2
        paired, apart = (groups, half, 2), (groups, 2, half)
        before, after, axis = (apart, paired, 1) if back else (paired, apart, 2)
        one = (groups, 1, half) if back else (groups, half, 1)
        turned = (groups, half, 1) if back else (groups, 1, half)
        split = [call.shapes.reshape(x, before)]
        halves = call.build.ops("Split", split, [(x.dtype, one)] * 2, axis=axis, num_outputs=2)
        moved = [call.shapes.reshape(part, turned) for part in halves]
        return call.shapes.reshape(call.build.op("Concat", moved, x.dtype, after, axis=3 - axis), (count, width))

    def _quantized(self, groups: torch.Tensor, narrowed: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if self.symmetric:
            reach = groups.abs().amax(1) * narrowed
            scales = reach / (_MIDDLE - 1)
            scales = torch.where(scales > 0, scales, torch.ones_like(scales))
            zeros = torch.full_like(scales, _MIDDLE)
        else:
            # Zero is among the values of every block, so that what is padded or pruned stays zero.
            low, high = (groups.amin(1) * narrowed).clamp(max=0), (groups.amax(1) * narrowed).clamp(min=0)
            scales = (high - low) / _LEVELS
            scales = torch.where(scales > 0, scales, torch.ones_like(scales))
            zeros = torch.round(-low / scales).clamp(0, _LEVELS)
        codes = (torch.round(groups / scales[:, None]) + zeros[:, None]).clamp(0, _LEVELS)
        return codes.to(torch.uint8), scales, zeros.to(torch.uint8)

    def _error(
        self, groups: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor
    ) -> torch.Tensor:
        restored = (codes.to(torch.float32) - zeros[:, None].to(torch.float32)) * scales[:, None]
        return (restored - groups).square().sum(1)


def _shifted(call: Call, nibbles: Tensor) -> Tensor:
    four = call.build.constant(4, torch.uint8)
    return call.build.op("BitShift", [nibbles, four], torch.uint8, nibbles.dims, direction="LEFT")


def _joined(call: Call, low: Tensor, high: Tensor) -> Tensor:
    return call.build.op("BitwiseOr", [low, high], torch.uint8, low.dims)


def _column(call: Call, pairs: Tensor, place: int) -> Tensor:
    index = call.build.constant(place, torch.int64)
    return call.build.op("Gather", [pairs, index], pairs.dtype, pairs.dims[:1], axis=1)


def _filled_up(call: Call, x: Tensor, width: int) -> Tensor:
    count, columns = x.dims
    assert isinstance(columns, int)
    if width == columns:
        return x
    pads = call.build.constant([0, 0, 0, width - columns], torch.int64)
    return call.build.op("Pad", [x, pads], x.dtype, (count, width), mode="constant")


def restored(block: str, zero: str) -> Int4:
    """Return the precision of a recipe's settings."""
    return Int4(int(block), symmetric=zero == "symmetric")


def chosen(block: int = 64, *, symmetric: bool = False) -> Int4:
    """Return the precision as a build asks for it."""
    return Int4(block, symmetric=symmetric)
