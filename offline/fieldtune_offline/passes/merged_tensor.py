"""How a weight of a merged graph comes about: from a tensor of the bundle, from one of the adapter, or from both."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeAlias

import numpy as np
import onnx_ir as ir

from fieldtune.bundle import FloatArray, Layout


class Update(Protocol):
    """What an adapter makes of a tensor of the base; equal ones do the same."""

    def __call__(self, value: FloatArray, fed: Mapping[str, FloatArray]) -> FloatArray:
        """Return the updated tensor, float32, of the same shape.

        Args:
            value: of the base, float32.
            fed: the adapter as infer.onnx takes it, by input name.
        """


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MergedTensor:
    """How a weight of the merged graph comes about; arrays of the adapter are as infer.onnx is fed them.

    Attributes:
        name: in the graph.
        held: the bundle's tensor; None for one that there was not, which starts from zeros.
        shape: of it.
        key: PEFT key of what takes the bundle's tensor's place, if the adapter has it.
        update: what the adapter does to it; None for nothing.
    """

    name: str
    held: ir.TensorProtocol | None
    shape: tuple[int, ...]
    key: str | None = None
    update: Update | None = None

    def values(self, fed: Mapping[str, FloatArray]) -> FloatArray:
        """Return the values, float32, with an adapter as infer.onnx takes it."""
        value: FloatArray
        if self.key is not None and self.key in fed:
            value = fed[self.key]
        elif self.held is not None:
            value = self.held.numpy()
        else:
            value = np.zeros(self.shape, np.float32)
        return value if self.update is None else self.update(value, fed)


Fold: TypeAlias = Callable[[Mapping[str, ir.Value], Layout], list[tuple[MergedTensor, ir.Value]]]
"""Takes what a method adds out of a graph, in place, given its inputs by name and the bundle's layout; returns each
weight that changes, with the value that now stands for it."""


def held_tensor(value: ir.Value, *, key: str | None = None) -> MergedTensor:
    """Return how the weight of an initializer comes about that stays as it is, or that one of the adapter replaces."""
    tensor = value.const_value
    assert tensor is not None
    return MergedTensor(name=str(value.name), held=tensor, shape=tuple(tensor.shape.numpy()), key=key)


def unbound(name: str, like: ir.Value) -> ir.Value:
    """Return a value of another's type and shape."""
    return ir.Value(name=name, type=like.type, shape=like.shape)


def register(graph: ir.Graph, made: Iterable[ir.Value]) -> None:
    """Make values initializers; an old one that has the name of one of them, and is still read, gets another."""
    for value in made:
        assert value.name is not None
        old = graph.initializers.pop(value.name, None)
        if old is not None:
            old.name = f"{value.name}.base"
            graph.register_initializer(old)
        graph.initializers[value.name] = value
