"""Operators on integers, as an accelerator computes them: eight-bit inputs, wide sums, one shift, saturation.

Every result is a ``Sum``: integers that are ``numerator · 2^-position / divisor``; what is stored of it is decided by
``stored``. All arithmetic is exact: sums are held in int64, and those of a convolution or product have to fit into the
accelerator's 32 bits.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Integers: TypeAlias = npt.NDArray[np.int64]
Attributes: TypeAlias = Mapping[str, Any]
Rounding: TypeAlias = Literal["half up", "half to even"]
"""Of what lies in the middle between two integers: to the larger one, as DPUs do, or to the even one, as ONNX says."""

ROUNDINGS: tuple[Rounding, Rounding] = ("half up", "half to even")
LOWEST, HIGHEST = -128, 127
_ACCUMULATOR = np.iinfo(np.int32)
_LEAKY_BITS = 8


@dataclasses.dataclass(frozen=True, slots=True)
class IntegerTensor:
    """A quantized tensor: ``values · 2^-position``, its zero point taken off."""

    values: Integers
    position: int


@dataclasses.dataclass(frozen=True, slots=True)
class Sum:
    """An operator's result before it is stored: ``numerator · 2^-position / divisor``."""

    numerator: Integers
    position: int
    divisor: int | Integers = 1


def stored(result: Sum, position: int, rounding: Rounding) -> Integers:
    """Return the eight-bit integers that are stored of a result, at a position."""
    shift = result.position - position
    numerator = result.numerator << max(-shift, 0)
    divisor = np.asarray(result.divisor, np.int64) << max(shift, 0)
    below = np.floor_divide(numerator, divisor)
    twice = 2 * (numerator - below * divisor)
    middle_goes_up = (below % 2 == 1) | (rounding == "half up")
    nearest = below + ((twice > divisor) | ((twice == divisor) & middle_goes_up))
    return np.asarray(np.clip(nearest, LOWEST, HIGHEST), np.int64)


def convolve(data: IntegerTensor, weight: IntegerTensor, bias: IntegerTensor | None, attributes: Attributes) -> Sum:
    """Return a convolution of any group, stride, dilation and padding, in two dimensions."""
    groups = attributes.get("group", 1)
    outputs, _, *kernel = weight.values.shape
    rows = weight.values.reshape(groups, outputs // groups, -1).astype(np.float64)
    images = []
    for image in data.values[:, None]:
        patches = _windows(image, kernel, attributes)
        columns = patches.reshape(groups, rows.shape[2], -1).astype(np.float64)
        # Products of eight bits, of which there are far fewer than 2^37: float64 holds every sum exactly.
        images.append((rows @ columns).astype(np.int64).reshape(outputs, *patches.shape[-2:]))
    return _biased(np.stack(images), data, weight, bias, axis=1)


def multiply(data: IntegerTensor, weight: IntegerTensor, bias: IntegerTensor | None, attributes: Attributes) -> Sum:
    """Return a matrix product with weights: Gemm or MatMul."""
    right = weight.values.T if attributes.get("transB", 0) else weight.values
    total = (data.values.astype(np.float64) @ right.astype(np.float64)).astype(np.int64)
    return _biased(total, data, weight, bias, axis=-1)


def add(operands: Sequence[IntegerTensor]) -> Sum:
    """Return an elementwise sum: operands are shifted to the finest position of theirs."""
    finest = max(operand.position for operand in operands)
    return Sum(_sum_of([operand.values << (finest - operand.position) for operand in operands]), finest)


def concatenate(operands: Sequence[IntegerTensor], axis: int) -> Sum:
    """Return tensors behind each other, at the finest position of theirs."""
    finest = max(operand.position for operand in operands)
    moved = [operand.values << (finest - operand.position) for operand in operands]
    return Sum(np.concatenate(moved, axis=axis), finest)


def multiply_elements(operands: Sequence[IntegerTensor]) -> Sum:
    """Return an elementwise product."""
    result = operands[0].values
    for operand in operands[1:]:
        result = result * operand.values
    return Sum(result, sum(operand.position for operand in operands))


def pool_maximum(data: IntegerTensor, attributes: Attributes) -> Sum:
    """Return the largest of each window; padding is smaller than all."""
    patches = _windows(data.values, attributes["kernel_shape"], attributes, fill=LOWEST - 1)
    return Sum(patches.max(axis=(2, 3)), data.position)


def pool_average(data: IntegerTensor, attributes: Attributes) -> Sum:
    """Return the mean of each window; padding counts where ``count_include_pad`` says so."""
    kernel = attributes["kernel_shape"]
    total = _windows(data.values, kernel, attributes).sum(axis=(2, 3))
    if attributes.get("count_include_pad", 0):
        return Sum(total, data.position, int(np.prod(kernel)))
    counted = _windows(np.ones_like(data.values), kernel, attributes).sum(axis=(2, 3))
    return Sum(total, data.position, counted)


def pool_globally(data: IntegerTensor) -> Sum:
    """Return the mean over all pixels."""
    axes = tuple(range(2, data.values.ndim))
    pixels = int(np.prod(data.values.shape[2:]))
    return Sum(data.values.sum(axis=axes, keepdims=True), data.position, pixels)


def activate(result: Sum, name: str) -> Sum:
    """Return a result behind a relu, relu6 or leaky_relu (26 / 256).

    Raises:
        KeyError: another activation.
    """
    return FUSED[name](result)


def _windows(values: Integers, kernel: Sequence[int], attributes: Attributes, fill: int = 0) -> npt.NDArray[np.int64]:
    """Return what a kernel sees, shape (images, channels, kernel height, kernel width, height, width)."""
    top, left, bottom, right = attributes.get("pads") or (0, 0, 0, 0)
    down, across = attributes.get("strides") or (1, 1)
    dilations = attributes.get("dilations") or (1, 1)
    padded = np.pad(values, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    seen = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    seen = seen[:, :, ::down, ::across, :: dilations[0], :: dilations[1]]
    return np.ascontiguousarray(np.moveaxis(seen, (4, 5), (2, 3)))


def _sum_of(arrays: Sequence[Integers]) -> Integers:
    """Return the elementwise sum of arrays that broadcast."""
    result = arrays[0]
    for array in arrays[1:]:
        result = result + array
    return result


def _biased(total: Integers, data: IntegerTensor, weight: IntegerTensor, bias: IntegerTensor | None, axis: int) -> Sum:
    position = data.position + weight.position
    if bias is not None:
        shape = [1] * total.ndim
        shape[axis] = -1
        # A bias at a coarser position, as AMD's own quantizer writes it, is shifted to the sum's.
        total = total + (bias.values.reshape(shape) << (position - bias.position))
    if total.size and (total.min() < _ACCUMULATOR.min or total.max() > _ACCUMULATOR.max):
        raise OverflowError(f"a sum of {np.abs(total).max()} does not fit into the accelerator's 32 bits")
    return Sum(total, position)


def _relu(result: Sum) -> Sum:
    return dataclasses.replace(result, numerator=np.maximum(result.numerator, 0))


def _relu6(result: Sum) -> Sum:
    # Six may lie between two steps of a coarse position; four more bits make it a whole number of them.
    finer = result.numerator << 4
    ceiling = np.asarray(result.divisor, np.int64) * (6 << 4)
    ceiling = ceiling << result.position if result.position >= 0 else ceiling >> -result.position
    return Sum(np.clip(finer, 0, ceiling), result.position + 4, result.divisor)


def _leaky_relu(result: Sum) -> Sum:
    scaled = np.where(result.numerator < 0, result.numerator * 26, result.numerator << _LEAKY_BITS)
    return Sum(scaled, result.position + _LEAKY_BITS, result.divisor)


FUSED: Mapping[str, Callable[[Sum], Sum]] = {"relu": _relu, "relu6": _relu6, "leaky_relu": _leaky_relu}
"""Activations by their name in a target's limits."""
