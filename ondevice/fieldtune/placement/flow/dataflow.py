"""What reads and writes what in a graph, and the quantization that its operators' tensors carry."""

import dataclasses
from collections.abc import Iterator, Mapping

from fieldtune.bundle import Node, NodeTable, Quantization, Shape

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "HardSigmoid", "HardSwish")
"""Fused behind a convolution, product or addition, whose own result is then never stored: what the activation puts out
is quantized."""
VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
"""Change no value, so that quantization before and behind them is the same."""
_SHAPES = ("Shape", "Size")
_RANDOM = ("RandomNormal", "RandomUniform", "Bernoulli", "Multinomial")
"""How the names of operators begin whose results differ from run to run."""
OUTPUT = -1
"""Stands among the readers of a value for the graph's output."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Dataflow:
    """A graph's edges.

    Attributes:
        table: the graph.
        producer: value → index of the node that computes it; not of inputs and initializers.
        consumers: value → indices of the nodes that read it, and OUTPUT.
        constants: values that are the same in every run: initializers and what follows from them and from static
            shapes alone, which a compiler folds.
    """

    table: NodeTable
    producer: Mapping[str, int]
    consumers: Mapping[str, tuple[int, ...]]
    constants: frozenset[str]

    def producing(self, value: str) -> Node | None:
        """Return the node that computes a value; None for inputs and initializers."""
        index = self.producer.get(value)
        return None if index is None else self.table.nodes[index]

    def is_operator(self, index: int) -> bool:
        """Whether a node computes on data: it does not quantize, and it is not folded."""
        node = self.table.nodes[index]
        return node.op not in (QUANTIZE, DEQUANTIZE) and not self.is_folded(index)

    def is_folded(self, index: int) -> bool:
        """Whether all that a node computes is constant; weights that are dequantized are not meant."""
        node = self.table.nodes[index]
        return node.op != DEQUANTIZE and all(name in self.constants for name in node.outputs if name)

    def operator_before(self, value: str) -> int | None:
        """Return the operator that a value comes from, through quantizations; None for inputs and constants."""
        index = self.producer.get(value)
        while index is not None and not self.is_operator(index):
            index = None if self.is_folded(index) else self.producer.get(self.table.nodes[index].inputs[0])
        return index

    def read_as(self, value: str) -> Quantization | None:
        """Return the quantization of a value that an operator reads; None where it is not quantized."""
        node = self.producing(value)
        if node is None:
            return None
        if node.op == DEQUANTIZE:
            return node.quantization
        return self.read_as(node.inputs[0]) if node.op in VIEWS else None

    def written_as(self, value: str) -> tuple[Quantization | None, ...]:
        """Return the quantizations of a value that an operator writes, behind its activation; None: read as it is."""
        quantizations: list[Quantization | None] = []
        for index in self.consumers.get(value, ()):
            node = None if index == OUTPUT else self.table.nodes[index]
            if node is None:
                quantizations.append(None)
            elif node.op == QUANTIZE:
                quantizations.append(node.quantization)
            elif node.op in ACTIVATIONS or node.op in VIEWS:
                quantizations += self.written_as(node.outputs[0])
            else:
                quantizations.append(None)
        return tuple(quantizations)

    def carried(self, value: str) -> str:
        """Return the tensor that is moved when a value is: the quantized one of a value that is dequantized."""
        node = self.producing(value)
        return node.inputs[0] if node is not None and node.op == DEQUANTIZE else value

    def shape(self, value: str) -> Shape:
        """Return the shape of a value; of one that is dequantized that of the quantized tensor."""
        return self.table.values[self.carried(value)].shape

    def readers(self, value: str) -> Iterator[int]:
        """Yield the nodes that read a value or what it is dequantized to, and OUTPUT."""
        for index in self.consumers.get(value, ()):
            if index != OUTPUT and self.table.nodes[index].op == DEQUANTIZE:
                yield from self.consumers.get(self.table.nodes[index].outputs[0], ())
            else:
                yield index


def trace(table: NodeTable) -> Dataflow:
    """Return a graph's edges."""
    producer: dict[str, int] = {}
    consumers: dict[str, list[int]] = {}
    constants = set(table.initializers) - set(table.inputs)  # an initializer that is an input can be overridden
    for index, node in enumerate(table.nodes):
        for name in node.reads:
            consumers.setdefault(name, []).append(index)
        producer.update((name, index) for name in node.outputs if name)
        static = node.op in _SHAPES and all(isinstance(dim, int) for dim in table.values[node.inputs[0]].shape)
        folded = all(name in constants for name in node.reads) and not node.op.startswith(_RANDOM)
        if static or folded:
            constants.update(name for name in node.outputs if name)
    for name in table.outputs:
        consumers.setdefault(name, []).append(OUTPUT)
    return Dataflow(
        table=table,
        producer=producer,
        consumers={name: tuple(indices) for name, indices in consumers.items()},
        constants=frozenset(constants),
    )
