"""What a DPU's rounding changes of a bundle's quantized prefixes: halves up in place of to even."""

import dataclasses

import onnx_ir as ir

from fieldtune.bundle import Bundle, read_node_table
from fieldtune.compilation import OutputDifference, compare_outputs, read_reference
from fieldtune.data import filled_up
from fieldtune_offline.accelerators.int8.integer_reference import compare_operators

_ONE_LSB = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RoundingEffect:
    """How far halves rounded up are from halves rounded to even, on the stored inputs of one prefix.

    Attributes:
        target: name of the hardware profile.
        operators: quantized operators that were computed on integers, each fed with what ONNX Runtime feeds it with.
        operator_largest_lsb: the largest difference of a result of one operator, in steps of its quantization.
        operator_differing: the share of all their results that differ, 0 to 1.
        left_out: quantized operators that the integer reference does not know.
        boundary: the outputs of the whole prefix; ``beyond`` counts what differs by more than one step.
    """

    target: str
    operators: int
    operator_largest_lsb: int
    operator_differing: float
    left_out: int
    boundary: tuple[OutputDifference, ...]


def rounding_effect(bundle: Bundle, target: str) -> RoundingEffect:
    """Compare both ways of rounding, operator by operator and at the boundary.

    Args:
        bundle: the bundle.
        target: name of one of its targets.

    Raises:
        CorruptFile: the stored inputs and outputs cannot be read.
    """
    spec = bundle.manifest.targets[target]
    graph, reference = bundle.manifest.graphs[spec.graph], read_reference(bundle, spec)
    table = read_node_table(bundle.root / graph.nodes)
    first = {name: array[: spec.batch] for name, array in reference.inputs.items()}
    report = compare_operators(ir.load(bundle.graph_path(spec.graph)), [filled_up(first, spec.batch)])
    return RoundingEffect(
        target=target,
        operators=len(report.operators),
        operator_largest_lsb=report.largest,
        operator_differing=report.share,
        left_out=len(report.left_out),
        boundary=compare_outputs(reference.half_up, reference.half_even, table, _ONE_LSB),
    )
