"""Channels of a product brought to even ranges by powers of two, where the CPU computes on either side of it.

In text encoders a few channels are ten to a hundred times as large as the others: of what a feed-forward part puts
out, of the normalization behind the sum with it, and of the activation inside (Bondarenko et al. 2021, §3). Eight bits
with one scale for all channels keep those few and nothing else. So

    y = x · W + b   becomes   y = ((x / s) · (s · W / t) + b / t) · t

with s for each input channel and t for each output channel: two Muls in float32, which the CPU runs beside what it
runs there anyway, and constants folded into weight and bias. In float32 nothing changes at all, as s and t are powers
of two.

Where Muls are put follows from the graph alone, so that a plan that is made before there are examples has them, too:

* before a product whose input the CPU computes, one for all products that read the same;
* behind a product whose result the CPU alone reads;
* not beside a Transpose: attention's heads are split and merged there, and their channels are even by themselves.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fieldtune.placement import OUTPUT, PRODUCTS, VIEWS, Dataflow

Ranges: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
"""Name of a tensor → the largest absolute value of each channel of its last axis."""
_MOST = 16
"""Powers of two between the channels of one tensor, at most: further apart, one of them counts for nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where channels can be scaled.

    Attributes:
        read: names of tensors that products read → names of the results of these products.
        written: names of results of products.
    """

    read: Mapping[str, tuple[str, ...]]
    written: tuple[str, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of all tensors whose ranges matter."""
        return tuple(dict.fromkeys((*self.read, *self.written)))


def find_places(flow: Dataflow, taken: frozenset[int]) -> Places:
    """Return where channels can be scaled.

    Args:
        flow: of a float32 graph.
        taken: indices of the operators that the accelerator computes.
    """
    nodes = flow.table.nodes
    scalable = [index for index in sorted(taken) if _is_scalable(flow, index)]
    read: dict[str, tuple[str, ...]] = {}
    for index in scalable:
        name = nodes[index].inputs[0]
        readers = [other for other in flow.consumers[name] if other in taken]
        by_cpu = flow.producer.get(name) is not None and flow.producer[name] not in taken
        if by_cpu and set(readers) <= set(scalable) and _computed_by(flow, name) not in (None, "Transpose"):
            read[name] = tuple(nodes[other].outputs[0] for other in readers)
    written = [
        nodes[index].outputs[0]
        for index in scalable
        if all(other != OUTPUT and other not in taken for other in flow.consumers[nodes[index].outputs[0]])
        and "Transpose" not in _read_by(flow, nodes[index].outputs[0])
    ]
    return Places(read=read, written=tuple(written))


def equalize(model: ir.Model, places: Places, ranges: Ranges) -> None:
    """Put the scales of channels into a graph.

    Args:
        model: float32, static.
        places: of it.
        ranges: of the places' tensors; where there is none, all scales are 1.
    """
    products = {str(node.outputs[0].name): node for node in model.graph}
    for name in places.written:
        node = products[name]
        scales = _of_results(ranges[name]) if name in ranges else np.ones(_weights(node).shape[1], np.float32)
        _scale_outputs(model.graph, node, scales)
    # Weights have their final columns now, which say how much the channels that they read weigh.
    for name, results in places.read.items():
        readers = [products[result] for result in results]
        channels = _weights(readers[0]).shape[0]
        largest = np.max([np.abs(_weights(node)).max(axis=1) for node in readers], axis=0)
        scales = _of_inputs(ranges[name], largest) if name in ranges else np.ones(channels, np.float32)
        _scale_inputs(model.graph, readers, scales)


def _is_scalable(flow: Dataflow, index: int) -> bool:
    """Whether an operator is a product with a matrix, and a bias for each of its columns if any, that are its own."""
    node = flow.table.nodes[index]
    if node.op not in PRODUCTS:
        return False
    weight, *biases = (name for name in node.inputs[1:] if name)
    own = all(name in flow.table.initializers and flow.consumers[name] == (index,) for name in (weight, *biases))
    outputs = flow.shape(node.outputs[0])[-1]
    return own and len(flow.shape(weight)) == 2 and all(flow.shape(name)[-1:] == (outputs,) for name in biases)


def _computed_by(flow: Dataflow, name: str) -> str | None:
    """Return the operator that computes a value, behind which it only changes its shape."""
    node = flow.producing(name)
    while node is not None and node.op in VIEWS:
        node = flow.producing(node.inputs[0])
    return None if node is None else node.op


def _read_by(flow: Dataflow, name: str) -> Iterator[str]:
    """Yield the operators that read a value, be it in another shape."""
    for index in flow.consumers.get(name, ()):
        if index == OUTPUT:
            continue
        node = flow.table.nodes[index]
        if node.op in VIEWS:
            yield from _read_by(flow, node.outputs[0])
        else:
            yield node.op


def _of_results(largest: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the scales that bring every channel to the range of the largest."""
    return _powers(largest, largest.max(initial=0))


def _of_inputs(largest: npt.NDArray[np.float32], weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the scales that share what is uneven out between data and weights, √(max|x| / max|W|) but for a factor.

    As between the layers of a convolutional network (Nagel et al. 2019, §4.1), and SmoothQuant's with its α of one half
    (Xiao et al. 2022, §4).
    """
    ratios = np.sqrt(np.divide(largest, weights, out=np.zeros_like(largest), where=weights > 0))
    positive = ratios[ratios > 0]
    return _powers(ratios, np.median(positive) if positive.size else 0)


def _powers(values: npt.NDArray[np.float32], reference: Any) -> npt.NDArray[np.float32]:
    """Return the powers of two nearest to values / reference; 1 for what is not used."""
    quotients = np.divide(values, reference, out=np.ones_like(values), where=(values > 0) & (reference > 0))
    return np.asarray(np.exp2(np.clip(np.rint(np.log2(quotients)), -_MOST, _MOST)), np.float32)


def _scale_outputs(graph: ir.Graph, node: ir.Node, scales: npt.NDArray[np.float32]) -> None:
    result = node.outputs[0]
    uses = tuple(result.uses())
    restored = _scaled(graph, result, scales, f"{result.name}.restored", node)
    for use in uses:
        use.node.replace_input_with(use.idx, restored)
    _set_weights(node, _weights(node) / scales)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = node.inputs[2]
        assert bias.const_value is not None
        _set(bias, bias.const_value.numpy() / scales)


def _scale_inputs(graph: ir.Graph, readers: Sequence[ir.Node], scales: npt.NDArray[np.float32]) -> None:
    data = readers[0].inputs[0]
    assert data is not None
    before = data.producer()
    assert before is not None
    even = _scaled(graph, data, np.reciprocal(scales), f"{data.name}.even", before)
    for node in readers:
        node.replace_input_with(0, even)
        _set_weights(node, _weights(node) * scales[:, None])


def _scaled(graph: ir.Graph, value: ir.Value, scales: npt.NDArray[np.float32], name: str, behind: ir.Node) -> ir.Value:
    """Put a Mul into a graph and return its result."""
    factors = ir.Value(name=f"{name}.scales")
    _set(factors, scales)
    graph.register_initializer(factors)
    node = ir.node("Mul", [value, factors], name=name)
    graph.insert_after(behind, node)
    result = node.outputs[0]
    result.name, result.type, result.shape = name, value.type, value.shape
    return result


def _weights(node: ir.Node) -> npt.NDArray[Any]:
    """Return a product's weights, shape (inputs, outputs)."""
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    array = weight.const_value.numpy()
    return np.asarray(array.T if node.attributes.get_int("transB", 0) else array)


def _set_weights(node: ir.Node, array: npt.NDArray[Any]) -> None:
    weight = node.inputs[1]
    assert weight is not None
    _set(weight, array.T if node.attributes.get_int("transB", 0) else array)


def _set(value: ir.Value, array: npt.NDArray[Any]) -> None:
    value.const_value = ir.tensor(np.ascontiguousarray(array, np.float32), name=value.name)
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(array.shape)
