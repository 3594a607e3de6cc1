"""What of a graph is quantized: activations, weights, biases, and how accelerated operators bind their positions."""

import dataclasses

from fieldtune.bundle import Node
from fieldtune.placement import CONVOLUTIONS, MOVES, POOLS, PRODUCTS, VIEWS, Dataflow, data_inputs
from fieldtune_offline.accelerators.int8.positions import Addition, Binding, ElementwiseProduct, Equal, Product
from fieldtune_offline.accelerators.int8.regions import fused_activation


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Bias:
    """A bias and what gives its scale: that of the data times that of the weights."""

    node: str
    bias: str
    data: str
    weight: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """Names of the tensors to quantize.

    Attributes:
        activations: stored in eight bits in each run.
        weights: constants in eight bits.
        biases: constants in 32 bits.
        bindings: between the positions of activations and weights.
        kept: float32 activations that the CPU computes or is fed, with the operators that go on reading them as they
            are.
    """

    activations: tuple[str, ...]
    weights: tuple[str, ...]
    biases: tuple[Bias, ...]
    bindings: tuple[Binding, ...]
    kept: frozenset[tuple[str, str]]


def quantization_scheme(flow: Dataflow, taken: frozenset[int]) -> Scheme:
    """Return what to quantize so that some operators compute on integers.

    The result of an operator with a fused activation is none of it: what the activation puts out is stored.

    Args:
        flow: of a float32 graph.
        taken: indices of the operators in its node table.
    """
    nodes = flow.table.nodes
    activations: dict[str, None] = {}
    weights: dict[str, None] = {}
    biases: list[Bias] = []
    bindings: list[Binding] = []
    fused = {index: other for index in taken if (other := fused_activation(flow, index, taken)) is not None}
    for index in sorted(taken):
        node = nodes[index]
        inputs = data_inputs(node)
        if node.op in (*CONVOLUTIONS, *PRODUCTS):
            if len(inputs) > 2:
                biases.append(Bias(node=node.name, bias=inputs[2], data=inputs[0], weight=inputs[1]))
            inputs = inputs[:2]
        if index not in fused.values():
            for name in inputs:
                (weights if name in flow.constants else activations)[name] = None
        stored = nodes[fused.get(index, index)].outputs[0]
        if index not in fused:
            activations[stored] = None
        bindings += _binding(node, inputs, stored)
    on_cpu = [name for name in activations if flow.producer.get(name) not in taken]
    kept = {
        (name, nodes[other].name) for name in on_cpu for other in flow.consumers[name] if _reads_float(other, taken)
    }
    return Scheme(
        activations=tuple(activations),
        weights=tuple(weights),
        biases=tuple(biases),
        bindings=tuple(bindings),
        kept=frozenset(kept),
    )


def _reads_float(reader: int, taken: frozenset[int]) -> bool:
    return reader >= 0 and reader not in taken


def _binding(node: Node, inputs: tuple[str, ...], result: str) -> list[Binding]:
    if node.op in (*CONVOLUTIONS, *PRODUCTS):
        return [Product(data=inputs[0], weight=inputs[1], result=result)]
    if node.op == "Add":
        return [Addition(operands=inputs, result=result)]
    if node.op == "Mul":
        return [ElementwiseProduct(operands=inputs, result=result)]
    return [Equal(tensors=(*inputs, result))] if node.op in (*POOLS, *VIEWS, *MOVES) else []
