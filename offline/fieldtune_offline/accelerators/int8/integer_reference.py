"""compare_operators: what an accelerator's rounding changes, operator by operator, by an exact integer reference.

ONNX Runtime's CPU provider, which stands in for the accelerator, computes each operator of a QDQ graph in float32 and
rounds halves to even. A DPU sums integers and rounds halves up. Fed with the same eight-bit inputs, the two can differ
by one step where a result lies exactly in the middle, and nowhere else: the reference shows it by rounding either way.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fieldtune.bundle import Node, Quantization
from fieldtune.placement import (
    ACTIVATIONS,
    DEQUANTIZE,
    OUTPUT,
    QUANTIZE,
    VIEWS,
    Dataflow,
    activation_name,
    data_inputs,
    trace,
)
from fieldtune_offline.accelerators.int8.calibration import Feeds
from fieldtune_offline.accelerators.int8.integer_operators import (
    FUSED,
    ROUNDINGS,
    IntegerTensor,
    Sum,
    activate,
    add,
    concatenate,
    convolve,
    multiply,
    multiply_elements,
    pool_average,
    pool_globally,
    pool_maximum,
    stored,
)
from fieldtune_offline.accelerators.int8.regions import LEAKY_RELU_ALPHA
from fieldtune_offline.accelerators.int8.running import open_model
from fieldtune_offline.node_table import table_of

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OperatorDifference:
    """One operator, with its activation, in ONNX Runtime and in the reference.

    Attributes:
        node: its name.
        op: ONNX's name of it.
        elements: of its results.
        half_up: how many of them differ where the reference rounds halves up.
        largest: difference of these, in steps of the quantized result.
        half_to_even: how many differ where it rounds halves to even.
    """

    node: str
    op: str
    elements: int
    half_up: int
    largest: int
    half_to_even: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceReport:
    """A graph in ONNX Runtime and in the reference.

    Attributes:
        operators: that were compared, in the graph's order.
        left_out: names of quantized operators that the reference does not know.
    """

    operators: tuple[OperatorDifference, ...]
    left_out: tuple[str, ...]

    @property
    def largest(self) -> int:
        """The largest difference of any operator, in steps of its quantized result."""
        return max((operator.largest for operator in self.operators), default=0)

    @property
    def share(self) -> float:
        """The share, 0 to 1, of all elements that differ where halves are rounded up."""
        elements = sum(operator.elements for operator in self.operators)
        return sum(operator.half_up for operator in self.operators) / elements if elements else 0.0

    @property
    def half_to_even(self) -> int:
        """How many elements differ where halves are rounded to even."""
        return sum(operator.half_to_even for operator in self.operators)


@dataclasses.dataclass(frozen=True, slots=True)
class _Unit:
    """An operator whose inputs and result are quantized.

    Attributes:
        node: the operator.
        activation: name of the one that is fused behind it; "" where there is none.
        quantizer: the QuantizeLinear of its result.
    """

    node: Node
    activation: str
    quantizer: Node


def compare_operators(model: ir.Model, feeds: Iterable[Feeds]) -> ReferenceReport:
    """Compare each quantized operator of a graph with the reference, on what ONNX Runtime feeds it with.

    Args:
        model: with QuantizeLinear and DequantizeLinear, static.
        feeds: batches of the graph's own size.

    Raises:
        OverflowError: a sum that does not fit into 32 bits.
        ValueError: a scale that is not a power of two.
    """
    flow = trace(table_of(model))
    units = list(_units(flow))
    known = [unit for unit in units if _is_known(unit)]
    names = dict.fromkeys(name for unit in known for name in _stored_names(flow, unit) if name not in flow.constants)
    held = {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if value.const_value}
    session = open_model(model, [*names], fused=False)
    results: dict[str, list[tuple[int, int, int, int]]] = {unit.node.name: [] for unit in known}
    for batch in feeds:
        arrays = {**held, **dict(zip(names, session.run([*names], dict(batch)), strict=True))}
        for unit in known:
            results[unit.node.name].append(_compare(flow, unit, arrays))
    return ReferenceReport(
        operators=tuple(_difference(unit.node, results[unit.node.name]) for unit in known),
        left_out=tuple(unit.node.name for unit in units if unit not in known),
    )


def _difference(node: Node, results: list[tuple[int, int, int, int]]) -> OperatorDifference:
    elements, half_up, largest, half_to_even = zip(*results, strict=True)
    return OperatorDifference(
        node=node.name,
        op=node.op,
        elements=sum(elements),
        half_up=sum(half_up),
        largest=max(largest),
        half_to_even=sum(half_to_even),
    )


def _units(flow: Dataflow) -> Iterator[_Unit]:
    nodes = flow.table.nodes
    for index, node in enumerate(nodes):
        if not flow.is_operator(index) or not all(_is_dequantized(flow, name) for name in data_inputs(node)):
            continue
        name, behind = "", node
        readers = _readers(flow, node)
        if len(readers) == 1 and readers[0].op in ACTIVATIONS and node.op not in ACTIVATIONS:
            behind = readers[0]
            name = activation_name(flow.table, behind, LEAKY_RELU_ALPHA)
        quantizer = next((reader for reader in _readers(flow, behind) if reader.op == QUANTIZE), None)
        if quantizer is not None:
            yield _Unit(node, name, quantizer)


def _readers(flow: Dataflow, node: Node) -> list[Node]:
    return [flow.table.nodes[index] for index in flow.consumers.get(node.outputs[0], ()) if index != OUTPUT]


def _is_dequantized(flow: Dataflow, name: str) -> bool:
    node = flow.producing(name)
    return node is not None and node.op == DEQUANTIZE


def _is_known(unit: _Unit) -> bool:
    known = unit.node.op in _OPERATORS or unit.node.op in (*ACTIVATIONS, *VIEWS)
    return known and unit.activation in ("", *FUSED) and not unit.node.attributes.get("ceil_mode", 0)


def _stored_names(flow: Dataflow, unit: _Unit) -> list[str]:
    """Return the names of the integers that a unit reads and writes."""
    return [*(flow.carried(name) for name in data_inputs(unit.node)), unit.quantizer.outputs[0]]


def _compare(flow: Dataflow, unit: _Unit, arrays: Arrays) -> tuple[int, int, int, int]:
    """Return how many elements there are; how many differ by half up, and by how much; how many by half to even."""
    result = _result(flow, unit, arrays)
    theirs = _tensor(unit.quantizer.quantization, arrays[unit.quantizer.outputs[0]])
    up, even = (np.abs(stored(result, theirs.position, rounding) - theirs.values) for rounding in ROUNDINGS)
    return up.size, int(np.count_nonzero(up)), int(up.max(initial=0)), int(np.count_nonzero(even))


def _result(flow: Dataflow, unit: _Unit, arrays: Arrays) -> Sum:
    node = unit.node
    tensors = []
    for name in data_inputs(node):
        producer = flow.producing(name)
        assert producer is not None
        tensors.append(_tensor(producer.quantization, arrays[producer.inputs[0]]))
    if node.op in ACTIVATIONS:
        name = activation_name(flow.table, node, LEAKY_RELU_ALPHA)
        return activate(Sum(tensors[0].values, tensors[0].position), name)
    if node.op in VIEWS:
        shape = [int(size) for size in flow.table.values[node.outputs[0]].shape]
        return Sum(tensors[0].values.reshape(shape), tensors[0].position)
    result = _OPERATORS[node.op](tensors, node.attributes)
    return activate(result, unit.activation) if unit.activation else result


def _tensor(quantization: Quantization | None, array: npt.NDArray[Any]) -> IntegerTensor:
    assert quantization is not None
    (scale,), (zero_point,) = quantization.scale, quantization.zero_point
    fraction, exponent = math.frexp(scale)
    if fraction != 0.5:
        raise ValueError(f"a scale of {scale} is not a power of two")
    return IntegerTensor(array.astype(np.int64) - zero_point, 1 - exponent)


_Compute: TypeAlias = Callable[[Sequence[IntegerTensor], Mapping[str, Any]], Sum]
_OPERATORS: Mapping[str, _Compute] = {
    "Conv": lambda inputs, attributes: convolve(inputs[0], inputs[1], (*inputs, None)[2], attributes),
    "Gemm": lambda inputs, attributes: multiply(inputs[0], inputs[1], (*inputs, None)[2], attributes),
    "MatMul": lambda inputs, attributes: multiply(inputs[0], inputs[1], None, attributes),
    "Add": lambda inputs, _: add(inputs),
    "Mul": lambda inputs, _: multiply_elements(inputs),
    "Concat": lambda inputs, attributes: concatenate(inputs, attributes["axis"]),
    "MaxPool": lambda inputs, attributes: pool_maximum(inputs[0], attributes),
    "AveragePool": lambda inputs, attributes: pool_average(inputs[0], attributes),
    "GlobalAveragePool": lambda inputs, _: pool_globally(inputs[0]),
}
