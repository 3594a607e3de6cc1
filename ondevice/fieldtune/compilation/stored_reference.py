"""The stored reference of a target: inputs, and what the quantized prefix gives for them on the dev box's CPU.

The outputs are there twice, with halves rounded to even, as ONNX Runtime does, and up, as a DPU does.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy.typing as npt

from fieldtune.bundle import Bundle, TargetSpec
from fieldtune.errors import CorruptFile

HALF_UP = ".half_up"
"""What follows an output's name where halves are rounded up."""

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reference:
    """One run of a prefix.

    Attributes:
        inputs: name → array, a row a sample.
        half_even: boundary tensor → float32, as many rows.
        half_up: the same with halves rounded up.
    """

    inputs: Arrays
    half_even: Arrays
    half_up: Arrays

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(next(iter(self.inputs.values())))


def read_reference(bundle: Bundle, target: TargetSpec) -> Reference:
    """Read the reference of a target.

    Raises:
        CorruptFile: not a safetensors file, or without a tensor that the graph takes or gives.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path, graph = bundle.root / target.reference, bundle.manifest.graphs[target.graph]
    try:
        held = load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise CorruptFile(f"{path}: not a whole safetensors file ({error}); copy the bundle again") from error
    outputs = [spec.name for spec in graph.outputs]
    wanted = [*(spec.name for spec in graph.inputs), *outputs, *(f"{name}{HALF_UP}" for name in outputs)]
    missing = [name for name in wanted if name not in held]
    if missing:
        present = ", ".join(sorted(held)) or "nothing"
        raise CorruptFile(f"{path}: has no tensor {', '.join(missing)}, but {present}; build the bundle again")
    return Reference(
        inputs={spec.name: held[spec.name] for spec in graph.inputs},
        half_even={name: held[name] for name in outputs},
        half_up={name: held[f"{name}{HALF_UP}"] for name in outputs},
    )
