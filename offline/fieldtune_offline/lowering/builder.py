"""An ONNX graph under construction, in which no node is made twice.

Every node is looked up by operator, inputs and attributes before it is made, so common subexpressions (masks, shapes,
positions, which a model repeats in each layer) exist once and no optimizer has to find them afterwards. Movements that
cancel out are never made at all: a transposition of a transposition, a reshape of a reshape, a cast to the same dtype.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import sympy
import torch

from fieldtune.errors import UnsupportedModel

PACKED = "packed"
"""Marks a value, until it is written, as a part of a packed matrix."""
TWIN = "@backward"
"""How the second name of a weight ends."""

Dim: TypeAlias = "int | sympy.Expr"
Attribute: TypeAlias = "int | float | str | Sequence[int] | ir.Graph"

_DTYPES = {
    torch.float32: ir.DataType.FLOAT,
    torch.float64: ir.DataType.DOUBLE,
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.int64: ir.DataType.INT64,
    torch.int32: ir.DataType.INT32,
    torch.int8: ir.DataType.INT8,
    torch.uint8: ir.DataType.UINT8,
    torch.bool: ir.DataType.BOOL,
}


def onnx_dtype(dtype: torch.dtype) -> ir.DataType:
    """Return ONNX's name of a torch dtype.

    Raises:
        UnsupportedModel: ONNX Runtime's CPU provider computes with no such numbers (complex ones, 8-bit floats).
    """
    if dtype not in _DTYPES:
        raise UnsupportedModel(f"the model computes in {dtype}, which is not supported")
    return _DTYPES[dtype]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A value of the graph with what lowering must know of it: dtype, and dimensions as integers or expressions."""

    value: ir.Value
    dtype: torch.dtype
    dims: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.dims)


class GraphBuilder:
    """Makes nodes in topological order; ``module`` names the model's module that the next nodes belong to.

    Args:
        around: of the graph that the one under construction is a loop's body in. What reads nothing of the body is
            made there, once for all rounds, and constants are.
        prefix: before the names of nodes: those of a body differ from all names around it.
    """

    def __init__(self, around: "GraphBuilder | None" = None, prefix: str = "") -> None:
        self.nodes: list[ir.Node] = []
        self.module: str = "" if around is None else around.module
        self._around, self._prefix = around, prefix
        self._made: dict[tuple[object, ...], tuple[Tensor, ...]] = {}
        self._by_value: dict[int, Tensor] = {}
        self._constants: dict[tuple[object, ...], Tensor] = {}
        self.initializers: list[ir.Value] = []
        self.twins: dict[str, Tensor] = {}

    def source(self, name: str, dtype: torch.dtype, dims: Sequence[Dim]) -> Tensor:
        """Make a value that no node produces: an input or a weight."""
        value = ir.Value(name=name, type=ir.TensorType(onnx_dtype(dtype)), shape=_shape(dims))
        return self._known(Tensor(value, dtype, tuple(dims)))

    def twin(self, weight: Tensor) -> Tensor:
        """Return a second weight over the same bytes, so that what is computed from it is computed again."""
        if self._around is not None:
            return self._around.twin(weight)
        name = f"{weight.value.name}{TWIN}"
        if name not in self.twins:
            self.twins[name] = self.source(name, weight.dtype, weight.dims)
            self.twins[name].value.meta.update(weight.value.meta)
        return self.twins[name]

    def constant(self, array: npt.ArrayLike, dtype: torch.dtype) -> Tensor:
        """Return a small constant; equal ones are one."""
        if self._around is not None:
            return self._around.constant(array, dtype)
        data = np.asarray(array, dtype=_numpy_dtype(dtype))
        key = (dtype, data.shape, data.tobytes())
        if key not in self._constants:
            tensor = self.source(f"const_{len(self._constants)}", dtype, data.shape)
            tensor.value.const_value = ir.tensor(data, name=tensor.value.name)
            self.initializers.append(tensor.value)
            self._constants[key] = tensor
        return self._constants[key]

    def constant_of(self, tensor: Tensor) -> npt.NDArray[np.generic] | None:
        """Return the array of a constant made here, or None."""
        held = tensor.value.const_value
        return held.numpy() if held is not None else None

    def op(
        self,
        op_type: str,
        inputs: Sequence[Tensor | None],
        dtype: torch.dtype,
        dims: Sequence[Dim],
        **attributes: Attribute,
    ) -> Tensor:
        """Return the only output of a node."""
        return self.ops(op_type, inputs, [(dtype, tuple(dims))], **attributes)[0]

    def ops(
        self,
        op_type: str,
        inputs: Sequence[Tensor | None],
        outputs: Sequence[tuple[torch.dtype, tuple[Dim, ...]]],
        **attributes: Attribute,
    ) -> tuple[Tensor, ...]:
        """Return the outputs of a node, which is made if there is no such node yet.

        An operator outside ONNX's own domain has that before its name: ``com.microsoft::MatMulNBits``.
        """
        if self._around is not None and not any(id(i.value) in self._by_value for i in inputs if i is not None):
            return self._around.ops(op_type, inputs, outputs, **attributes)
        fed = tuple(None if i is None else id(i.value) for i in inputs)
        key = (op_type, fed, _frozen(attributes), len(outputs))
        if key not in self._made:
            domain, _, name = op_type.rpartition("::")
            stem = f"{self._prefix}{name}_{len(self.nodes)}"
            values = [
                ir.Value(name=f"{stem}_{i}", type=ir.TensorType(onnx_dtype(dtype)), shape=_shape(dims))
                for i, (dtype, dims) in enumerate(outputs)
            ]
            fed_values = [i.value if i else None for i in inputs]
            node = ir.node(name, fed_values, attributes, domain=domain, outputs=values, name=stem)
            if self.module:
                node.metadata_props["module"] = self.module
            self.nodes.append(node)
            self._made[key] = tuple(
                self._known(Tensor(value, dtype, dims)) for value, (dtype, dims) in zip(values, outputs, strict=True)
            )
        return self._made[key]

    def producer(self, tensor: Tensor, op_type: str) -> ir.Node | None:
        """Return the node that makes a tensor, if it is of this type."""
        node = tensor.value.producer()
        return node if node is not None and node.op_type == op_type else None

    def tensor_of(self, value: ir.Value | None) -> Tensor:
        """Return the tensor of a value made here."""
        assert value is not None
        if id(value) not in self._by_value and self._around is not None:
            return self._around.tensor_of(value)
        return self._by_value[id(value)]

    def transpose(self, x: Tensor, perm: Sequence[int]) -> Tensor:
        """Permute axes: a permutation of a permutation is one, and the identity is none."""
        before = self.producer(x, "Transpose")
        if before is not None:
            first = before.attributes["perm"].as_ints()
            return self.transpose(self.tensor_of(before.inputs[0]), [first[axis] for axis in perm])
        if list(perm) == list(range(x.rank)):
            return x
        return self.op("Transpose", [x], x.dtype, [x.dims[axis] for axis in perm], perm=list(perm))

    def cast(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Convert the dtype, where it is another."""
        if x.dtype == dtype:
            return x
        held = self.constant_of(x)
        if held is not None:
            return self.constant(held, dtype)
        return self.op("Cast", [x], dtype, x.dims, to=int(onnx_dtype(dtype)))

    def _known(self, tensor: Tensor) -> Tensor:
        self._by_value[id(tensor.value)] = tensor
        return tensor


def _shape(dims: Sequence[Dim]) -> ir.Shape:
    return ir.Shape([dim if isinstance(dim, int) else str(dim) for dim in dims])


def _frozen(attributes: Mapping[str, Attribute]) -> tuple[object, ...]:
    return tuple((k, tuple(v) if isinstance(v, list | tuple) else v) for k, v in sorted(attributes.items()))


def _numpy_dtype(dtype: torch.dtype) -> npt.DTypeLike:
    return onnx_dtype(dtype).numpy()
