"""How far the outputs of a quantized prefix are from those that are expected of it, in LSB.

One LSB is the smallest step of a quantized tensor: its scale.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fieldtune.bundle import NodeTable

_MOVEMENTS = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity")
_STEPS = 127
"""Steps of the largest element where no quantization says how large one is: eight bits with a sign."""
_EQUAL_LSB = 1e-3
"""Of a step; less is float32's own rounding."""

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OutputDifference:
    """How far one output is from what is expected.

    Attributes:
        name: of the output.
        step: value of one LSB: the scale that the output is quantized with, else 1/127 of its largest element.
        quantized: whether ``step`` is such a scale.
        largest_lsb: largest difference of an element, in LSB; infinite where one is no number or the shape is another.
        differing: share of the elements that differ at all, 0 to 1.
        beyond: share of the elements that differ by more than the tolerance, 0 to 1.
    """

    name: str
    step: float
    quantized: bool
    largest_lsb: float
    differing: float
    beyond: float


def compare_outputs(
    outputs: Mapping[str, Array], expected: Mapping[str, Array], table: NodeTable, tolerance_lsb: float
) -> tuple[OutputDifference, ...]:
    """Compare outputs with expected ones.

    Args:
        outputs: name → array.
        expected: name → array; each of them is compared.
        table: of the graph that they are the outputs of.
        tolerance_lsb: the difference that elements are counted beyond, in LSB.

    Raises:
        ValueError: an expected output is not among those found.
    """
    missing = [name for name in expected if name not in outputs]
    if missing:
        raise ValueError(f"no output {', '.join(missing)} among those found: {', '.join(outputs)}")
    return tuple(
        _difference(name, outputs[name], array, output_step(table, name), tolerance_lsb)
        for name, array in expected.items()
    )


def output_step(table: NodeTable, name: str) -> float | None:
    """Return the scale that an output is quantized with; None where it is not, or not with one for all of it."""
    producers = {output: node for node in table.nodes for output in node.outputs}
    node = producers.get(name)
    while node is not None and node.op in _MOVEMENTS:
        node = producers.get(node.inputs[0])
    if node is None or node.op != "DequantizeLinear" or node.quantization is None:
        return None
    scales = set(node.quantization.scale)
    return scales.pop() if len(scales) == 1 else None


def _difference(
    name: str, output: Array, expected: Array, step: float | None, tolerance_lsb: float
) -> OutputDifference:
    size = step or float(np.abs(expected).max(initial=0)) / _STEPS or 1.0
    if output.shape != expected.shape:
        off = np.full(1, np.inf)
    else:
        off = np.abs(output.astype(np.float64) - expected) / size
        off[~np.isfinite(off)] = np.inf
    return OutputDifference(
        name=name,
        step=size,
        quantized=step is not None,
        largest_lsb=float(off.max(initial=0)),
        differing=float(np.mean(off > _EQUAL_LSB)) if off.size else 0.0,
        beyond=float(np.mean(off > tolerance_lsb + _EQUAL_LSB)) if off.size else 0.0,
    )
