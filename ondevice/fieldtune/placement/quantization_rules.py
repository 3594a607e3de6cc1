"""Rules on how tensors are quantized: eight bits, one scale a tensor, every scale a power of two (XINT8).

A tensor's position is −log2 of its scale: how many of its bits lie behind the binary point. Between two positions the
hardware shifts instead of multiplying, by so many bits as its shifter has.
"""

import math
from collections.abc import Iterator

from fieldtune.bundle import Node, Quantization
from fieldtune.placement.flow import DEQUANTIZE, HEAVY, OUTPUT, POOLS, QUANTIZE, data_inputs
from fieldtune.placement.violations import Finding, Subject, called

_WEIGHTS, _BIASES = "int8", ("int8", "int32")
_BIAS_INPUT = 2
_WITH_BIAS = ("Conv", "ConvTranspose", "Gemm")
_KEEPING_POSITIONS = ("Concat", *POOLS, "Pad", "Slice")


def scale_power_of_two(subject: Subject) -> Iterator[Finding]:
    """Name quantizations with a scale that is not a power of two."""
    for node, tensor in _quantized_tensors(subject):
        scales = node.quantization.scale if node.quantization else ()
        wrong = next((scale for scale in scales if not _is_power_of_two(scale)), None)
        if wrong is not None:
            yield Finding(called(node), "a power of two", f"scale {wrong:.9g} of {tensor!r}")


def zero_point(subject: Subject) -> Iterator[Finding]:
    """Name quantizations with another zero point than the accelerator's; of weights and biases it is 0."""
    for node, tensor in _quantized_tensors(subject):
        quantization = node.quantization
        if quantization is None or quantization.dtype not in _types(subject, tensor):
            continue
        constant = tensor in subject.flow.constants and quantization.dtype in _BIASES
        wanted = 0 if constant else subject.accelerator.zero_point
        wrong = next((zero for zero in quantization.zero_point if zero != wanted), None)
        if wrong is not None:
            yield Finding(called(node), f"zero point {wanted}", f"zero point {wrong} of {tensor!r}")


def quantized_type(subject: Subject) -> Iterator[Finding]:
    """Name quantizations to another type than the accelerator's, with a scale for each channel or with a computed one.

    Weights are int8, biases int8 or int32, other constants int8 or the activations' type.
    """
    for node, tensor in _quantized_tensors(subject):
        quantization, types = node.quantization, _types(subject, tensor)
        if quantization is None:
            yield Finding(called(node), "one constant scale for all of a tensor", f"a computed scale of {tensor!r}")
        elif quantization.axis is not None and len(quantization.scale) > 1:
            actual = f"{len(quantization.scale)} scales along axis {quantization.axis} of {tensor!r}"
            yield Finding(called(node), "one scale for all of a tensor", actual)
        elif quantization.dtype not in types:
            yield Finding(called(node), " or ".join(types), f"{quantization.dtype} of {tensor!r}")


def unquantized(subject: Subject) -> Iterator[Finding]:
    """Name convolutions, products and pools on the accelerator that read or write what is not quantized.

    What they write counts behind the activation that is fused to them. Other operators without quantization run on the
    CPU instead.
    """
    for node in subject.operators(*HEAVY):
        for name in data_inputs(node):
            if subject.flow.read_as(name) is None:
                yield Finding(called(node), "quantized inputs", f"{_dtype(subject, name)} input {name!r}")
        for name in node.outputs:
            if None in subject.flow.written_as(name):
                yield Finding(called(node), "quantized outputs", f"{_dtype(subject, name)} output {name!r}")


def shift_cut(subject: Subject) -> Iterator[Finding]:
    """Name convolutions and products whose sum would be shifted by fewer or more bits than the limits."""
    limits = subject.accelerator.limits
    if limits is None:
        return
    least, most = limits.shift_cut_min, limits.shift_cut_max
    for node in subject.operators("Conv", "Gemm"):
        read, weight = (_position(subject.flow.read_as(name)) for name in node.inputs[:2])
        if read is None or weight is None:
            continue
        for written in _positions_written(subject, node):
            shift = weight + read - written
            if not least <= shift <= most:
                actual = f"{shift} from position {weight} of the weights, {read} of the input, {written} of the output"
                yield Finding(called(node), f"a shift of {least} to {most}", actual)


def add_shift_read(subject: Subject) -> Iterator[Finding]:
    """Name additions whose operands lie further apart than one of them can be shifted."""
    limits = subject.accelerator.limits
    if limits is None:
        return
    for node in subject.operators("Add"):
        read = _positions_read(subject, node)
        if read and max(read) - min(read) > limits.add_shift_read_max:
            actual = f"{max(read) - min(read)} between positions {' and '.join(map(str, read))}"
            yield Finding(called(node), f"a shift of at most {limits.add_shift_read_max}", actual)


def equal_positions(subject: Subject) -> Iterator[Finding]:
    """Name operators that only pick, move or average numbers, and whose inputs and outputs differ in position."""
    for node in subject.operators(*_KEEPING_POSITIONS):
        read, written = _positions_read(subject, node), _positions_written(subject, node)
        if len({*read, *written}) > 1:
            actual = f"input {', '.join(map(str, read))}, output {', '.join(map(str, written))}"
            yield Finding(called(node), "equal positions of inputs and outputs", actual)


def _quantized_tensors(subject: Subject) -> Iterator[tuple[Node, str]]:
    """Yield each quantized tensor with the first node that quantizes or dequantizes it so."""
    seen: set[tuple[str, Quantization | None]] = set()
    for node in subject.table.nodes:
        if node.op in (QUANTIZE, DEQUANTIZE):
            tensor = node.outputs[0] if node.op == QUANTIZE else node.inputs[0]
            if (tensor, node.quantization) not in seen:
                seen.add((tensor, node.quantization))
                yield node, tensor


def _types(subject: Subject, tensor: str) -> tuple[str, ...]:
    """Return what a tensor may be quantized to."""
    flow, activation = subject.flow, subject.accelerator.activation_type
    if tensor not in flow.constants:
        return (activation,)
    uses = tuple(_uses(subject, tensor))
    if any(node.op in _WITH_BIAS and position == _BIAS_INPUT for node, position in uses):
        return _BIASES
    if any(node.op in HEAVY for node, _ in uses):
        return (_WEIGHTS,)
    return tuple(dict.fromkeys((_WEIGHTS, activation)))


def _uses(subject: Subject, tensor: str) -> Iterator[tuple[Node, int]]:
    """Yield the nodes that read what a tensor is dequantized to, and as which of their inputs."""
    nodes, consumers = subject.table.nodes, subject.flow.consumers
    for index in consumers.get(tensor, ()):
        if index != OUTPUT and nodes[index].op == DEQUANTIZE:
            name = nodes[index].outputs[0]
            readers = (nodes[reader] for reader in consumers.get(name, ()) if reader != OUTPUT)
            yield from ((node, node.inputs.index(name)) for node in readers if name in node.inputs)


def _is_power_of_two(scale: float) -> bool:
    return math.frexp(scale)[0] == 0.5


def _position(quantization: Quantization | None) -> int | None:
    """Return −log2 of a scale; None where there is no one scale that is a power of two."""
    if quantization is None or len(quantization.scale) != 1 or not _is_power_of_two(quantization.scale[0]):
        return None
    return 1 - math.frexp(quantization.scale[0])[1]


def _positions_read(subject: Subject, node: Node) -> tuple[int, ...]:
    positions = (_position(subject.flow.read_as(name)) for name in data_inputs(node))
    return tuple(position for position in positions if position is not None)


def _positions_written(subject: Subject, node: Node) -> tuple[int, ...]:
    positions = (_position(quantization) for quantization in subject.flow.written_as(node.outputs[0]))
    return tuple(dict.fromkeys(position for position in positions if position is not None))


def _dtype(subject: Subject, name: str) -> str:
    return subject.table.values[name].dtype
