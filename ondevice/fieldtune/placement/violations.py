"""What a rule of the accelerator looks at, and what it finds."""

import dataclasses
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

from fieldtune.bundle import Node, NodeTable
from fieldtune.hardware import Accelerator, HardwareProfile
from fieldtune.placement.flow import Dataflow

Rule: TypeAlias = Literal[
    "dynamic-shape",
    "batch",
    "opset-range",
    "training-graph",
    "memory",
    "implicit-conv-attributes",
    "data-dependent-if",
    "lstm",
    "bfloat16",
    "scale-power-of-two",
    "zero-point",
    "quantized-type",
    "unquantized",
    "shift-cut",
    "add-shift-read",
    "equal-positions",
    "kernel",
    "stride",
    "padding",
    "input-channels",
    "output-channels",
    "weight-bank",
    "activation",
]


class Finding(NamedTuple):
    """One place where a rule is broken: the node or input, what is allowed there and what was found."""

    node: str
    limit: str
    found: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """One place where the accelerator would refuse a graph.

    Attributes:
        rule: the name of the rule.
        node: name of the node, input or graph.
        limit: what is allowed.
        found: what was found.
        message: all of it in a sentence, and what to do.
    """

    rule: Rule
    node: str
    limit: str
    found: str
    message: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A graph that is held against the rules.

    Attributes:
        flow: the graph.
        profile: of the device.
        accelerator: of the profile.
        placed: indices of the nodes that the accelerator would run.
        training: whether whoever asks knows that it is a training graph.
    """

    flow: Dataflow
    profile: HardwareProfile
    accelerator: Accelerator
    placed: frozenset[int]
    training: bool

    @property
    def table(self) -> NodeTable:
        """The graph's node table."""
        return self.flow.table

    def operators(self, *kinds: str) -> Iterator[Node]:
        """Yield the operators of these kinds that the accelerator would run."""
        for index in sorted(self.placed):
            node = self.table.nodes[index]
            if node.op in kinds:
                yield node


def called(node: Node) -> str:
    """Return a node's name; of one without a name what it makes."""
    return node.name or f"{node.op} → {next(filter(None, node.outputs), '')}"
