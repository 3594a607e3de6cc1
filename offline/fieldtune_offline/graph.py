"""A graph of a bundle in the making: closed, its weights not bound yet."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

import onnx_ir as ir
import torch

from fieldtune.bundle import GraphSpec, TensorSpec
from fieldtune_offline.lowering import PACKED, Tensor

OPSET = 18
CONTRIBUTED_OPSET = 1
"""Of ONNX Runtime's own operators."""


IR_VERSION = 8


MIN_ORT = "1.16.3"
"""Opset 18 and IR 8 are what AMD's Vitis AI 3.5 build of ONNX Runtime 1.16 loads."""


@dataclasses.dataclass(frozen=True, slots=True)
class Graph:
    """A closed graph whose weights are not bound yet.

    Attributes:
        name: as the bundle has it.
        model: the ONNX model.
        inputs: to be fed, without the adapter's.
        outputs: in order.
        adapter_inputs: the adapter's, which have defaults.
        weights: name in the file → the torch tensor that unbound initializers take.
        unbound: those initializers.
    """

    name: str
    model: ir.Model
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    adapter_inputs: tuple[TensorSpec, ...]
    weights: Mapping[str, torch.Tensor]
    unbound: tuple[ir.Value, ...]

    def spec(self, folder: str) -> GraphSpec:
        """Return the manifest's entry of the graph."""
        return GraphSpec(
            path=f"{folder}/{self.name}.onnx",
            nodes=f"{folder}/{self.name}.nodes.json",
            opset=OPSET,
            ir_version=IR_VERSION,
            min_ort=MIN_ORT,
            inputs=self.inputs,
            outputs=self.outputs,
            adapter_inputs=self.adapter_inputs,
            in_order=bool(packed_weights(self.model.graph)),
        )


def packed_weights(graph: ir.Graph) -> list[ir.Value]:
    """Return the initializers that hold parts of packed matrices."""
    return [value for value in graph.initializers.values() if value.meta.get(PACKED)]


def tensor_spec(tensor: Tensor, pads: Mapping[str, int] = MappingProxyType({})) -> TensorSpec:
    """Return the manifest's entry of an input or output; ``pads`` has what fills up inputs, by name."""
    shape = tuple(dim if isinstance(dim, int) else str(dim) for dim in tensor.dims)
    name = str(tensor.value.name)
    return TensorSpec(name=name, dtype=str(tensor.dtype).removeprefix("torch."), shape=shape, pad=pads.get(name, 0))
