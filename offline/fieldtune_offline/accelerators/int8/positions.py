"""Positions: the powers of two that scale quantized tensors, and what the accelerator asks of them together.

A tensor with position p is stored as q = round(x · 2^p) in eight bits, saturated: its scale is 2^−p.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fieldtune.hardware import DpuLimits

Positions: TypeAlias = Mapping[str, int]
"""Name of a tensor → its position."""
_LOWEST, _HIGHEST = -128, 127
_FINER = 4
"""How many positions finer than the one that covers the largest value are tried: each halves the range."""
_OF_ZEROS = 7
_LIMIT = 126
"""Of a position: 2^126 and 2^-126 are normal float32 numbers."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """A convolution or matrix product shifts its sum right by pos(weight) + pos(data) − pos(result)."""

    data: str
    weight: str
    result: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Addition:
    """An addition shifts its operands to meet: the finest by the difference to the coarsest."""

    operands: tuple[str, ...]
    result: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ElementwiseProduct:
    """A multiplication shifts its result right by the sum of its operands' positions less the result's."""

    operands: tuple[str, ...]
    result: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Equal:
    """Tensors whose bytes are only moved, or compared, by an operator without a shift: one position for all."""

    tensors: tuple[str, ...]


Binding: TypeAlias = Product | Addition | ElementwiseProduct | Equal


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShiftLimits:
    """Ranges of the shifts. The defaults are those of the vendor's quantizer for DPUs and NPUs alike (refine.py)."""

    cut_min: int = 0
    cut_max: int = 16
    read_max: int = 7
    write_min: int = -7
    product_max: int = 32

    @classmethod
    def of(cls, limits: DpuLimits | None) -> "ShiftLimits":
        """Return those of a profile's accelerator."""
        if limits is None:
            return cls()
        return cls(cut_min=limits.shift_cut_min, cut_max=limits.shift_cut_max, read_max=limits.add_shift_read_max)


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """What is known of a tensor's values.

    Attributes:
        values: float32, some of them, or all.
        largest: of all, in absolute value.
    """

    values: npt.NDArray[np.float32]
    largest: float


def covering_position(largest: float) -> int:
    """Return the finest position at which ±largest is not clipped."""
    if not largest > 0:
        return _OF_ZEROS
    return int(np.clip(np.floor(np.log2(_HIGHEST / largest)), -_LIMIT, _LIMIT))


def saturated(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the nearest eight-bit integers, as floating-point numbers."""
    return np.asarray(np.clip(np.rint(values), _LOWEST, _HIGHEST))


def quantization_error(values: npt.NDArray[np.float32], position: int) -> float:
    """Return the mean squared difference that quantizing makes."""
    if not values.size:
        return 0.0
    stored = np.ldexp(saturated(np.ldexp(values, position)), -position)
    return float(np.mean(np.square(values - stored), dtype=np.float64))


def best_position(*samples: Sample) -> int:
    """Return the position at which quantizing costs least: the least sum of noise-to-signal ratios of the tensors.

    Tried are the position that covers the largest value of all, and finer ones, which clip it.
    """
    first = covering_position(max(sample.largest for sample in samples))
    powers = [float(np.mean(np.square(sample.values), dtype=np.float64)) or 1.0 for sample in samples]
    costs = [
        sum(
            quantization_error(sample.values, first + finer) / power
            for sample, power in zip(samples, powers, strict=True)
        )
        for finer in range(_FINER + 1)
    ]
    return first + int(np.argmin(costs))


def choose_positions(samples: Mapping[str, Sample], bindings: Sequence[Binding]) -> dict[str, int]:
    """Return each tensor's best position, one for all tensors that must be equal."""
    groups: dict[str, tuple[str, ...]] = {name: (name,) for name in samples}
    for binding in bindings:
        if isinstance(binding, Equal):
            joined = tuple(dict.fromkeys(member for name in binding.tensors for member in groups[name]))
            groups |= dict.fromkeys(joined, joined)
    chosen = {group: best_position(*(samples[name] for name in group)) for group in set(groups.values())}
    return {name: chosen[group] for name, group in groups.items()}


def refine(positions: Positions, bindings: Sequence[Binding], limits: ShiftLimits) -> dict[str, int]:
    """Return the positions that keep every binding, none of them finer than it was.

    Coarser is safe: it costs precision, where a finer one would clip. So each binding lowers the positions that are too
    fine for it, again and again until none is. They only fall, and no binding asks for more than a fixed distance below
    another tensor's, so this ends.
    """
    refined = dict(positions)
    changed = True
    while changed:
        changed = False
        for binding in bindings:
            for name, ceiling in _ceilings(binding, refined, limits).items():
                if refined[name] > ceiling:
                    refined[name], changed = ceiling, True
    return refined


def _ceilings(binding: Binding, positions: Positions, limits: ShiftLimits) -> Mapping[str, int]:
    """Return the finest positions that a binding allows, each from those of the others."""
    match binding:
        case Product(data=data, weight=weight, result=result):
            accumulator = positions[data] + positions[weight]
            if accumulator - positions[result] > limits.cut_max:
                return {weight: positions[result] + limits.cut_max - positions[data]}
            return {result: accumulator - limits.cut_min}
        case Addition(operands=operands, result=result):
            coarsest = min(positions[name] for name in operands)
            return {**dict.fromkeys(operands, coarsest + limits.read_max), result: coarsest - limits.write_min}
        case ElementwiseProduct(operands=operands, result=result):
            finest = sum(positions[name] for name in operands)
            if finest - positions[result] > limits.product_max:
                largest = max(operands, key=lambda name: positions[name])
                return {largest: positions[largest] - (finest - positions[result] - limits.product_max)}
            return {result: finest}
        case Equal(tensors=tensors):
            coarsest = min(positions[name] for name in tensors)
            return dict.fromkeys(tensors, coarsest)


def scale(position: int) -> npt.NDArray[Any]:
    """Return 2^−position as float32, 0-d."""
    return np.array(np.ldexp(1.0, -position), np.float32)
