"""Symbolic sizes: from torch's expressions to as few ONNX shape nodes as can be.

A size that depends on the batch is computed once per graph, whatever number of layers asks for it, because the builder
makes no node twice. Most reshapes need no such node: 0 copies a dimension and -1 infers one.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import sympy
import torch
from torch.utils._sympy.functions import CleanDiv, FloorDiv, Max, Min, Mod, PythonMod

from fieldtune.errors import UnsupportedModel
from fieldtune_offline.lowering.builder import Dim, GraphBuilder, Tensor

INT64 = torch.int64


def dim_of(size: object, names: Mapping[sympy.Symbol, sympy.Symbol]) -> Dim:
    """Return one size (int, SymInt or expression) with the graph's names for its symbols.

    Raises:
        UnsupportedModel: it is a symbolic number of another kind.
    """
    if isinstance(size, torch.SymInt):
        size = size.node.expr
    if isinstance(size, sympy.Expr):
        if size.is_Integer:
            return int(size)
        renamed = size.xreplace(names)
        assert isinstance(renamed, sympy.Expr)
        return renamed
    if not isinstance(size, int):
        raise UnsupportedModel(f"a size or number is computed from sizes as {size}; expected an integer")
    return size


def size_of(dims: Sequence[Dim]) -> Dim:
    """Return the number of elements of a shape."""
    total: Dim = 1
    for dim in dims:
        total = total * dim
    return total


class Shapes:
    """Emits sizes as tensors.

    Args:
        builder: where the nodes go.
        names: torch's symbol → the graph's name for it.
    """

    def __init__(self, builder: GraphBuilder, names: Mapping[sympy.Symbol, sympy.Symbol]) -> None:
        self._builder = builder
        self._origins: dict[sympy.Symbol, tuple[Tensor, int]] = {}
        self._names = names
        self._held: dict[Tensor, Tensor] = {}

    def learn(self, tensor: Tensor) -> None:
        """Remember a tensor as the place where its sizes can be read, unless an earlier one has them."""
        for axis, dim in enumerate(tensor.dims):
            if isinstance(dim, sympy.Symbol):
                self._origins.setdefault(dim, (tensor, axis))

    def dim(self, size: object) -> Dim:
        """Return one size with the graph's names."""
        return dim_of(size, self._names)

    def dims(self, sizes: Sequence[object]) -> tuple[Dim, ...]:
        """Return sizes with the graph's names."""
        return tuple(self.dim(size) for size in sizes)

    def size(self, dim: Dim) -> Tensor:
        """Return a size as an int64 tensor of shape (1,)."""
        build = self._builder
        if isinstance(dim, int):
            return build.constant([dim], INT64)
        if dim.is_Integer:
            return build.constant([int(dim)], INT64)
        if dim in self._origins:
            tensor, axis = self._origins[dim]
            return build.op("Shape", [tensor], INT64, [1], start=axis, end=axis + 1)
        if isinstance(dim, sympy.Pow) and dim.exp.is_Integer and dim.exp > 0:
            return build.op("Pow", [self.size(dim.base), self.size(int(dim.exp))], INT64, [1])
        operator = _OPERATORS.get(dim.func)
        if operator is None:
            raise UnsupportedModel(
                f"a size is computed as {dim}; only sums, products, quotients, minima and maxima are known"
            )
        terms = [self.size(argument) for argument in dim.args]
        result = terms[0]
        for term in terms[1:]:
            result = build.op(operator, [result, term], INT64, [1])
        return result

    def scalar(self, dim: Dim) -> Tensor:
        """Return a size as an int64 tensor of shape ()."""
        if isinstance(dim, int):
            return self._builder.constant(dim, INT64)
        axes = self._builder.constant([0], INT64)
        return self._builder.op("Squeeze", [self.size(dim), axes], INT64, [])

    def shape(self, dims: Sequence[Dim]) -> Tensor:
        """Return a whole shape as an int64 tensor of shape (rank,)."""
        build = self._builder
        if all(isinstance(dim, int) for dim in dims):
            return build.constant(np.array(dims, np.int64), INT64)
        parts: list[Tensor] = []
        static: list[int] = []
        for dim in dims:
            if isinstance(dim, int):
                static.append(dim)
                continue
            if static:
                parts.append(build.constant(static, INT64))
                static = []
            parts.append(self.size(dim))
        if static:
            parts.append(build.constant(static, INT64))
        return parts[0] if len(parts) == 1 else build.op("Concat", parts, INT64, [len(dims)], axis=0)

    def reshape(self, x: Tensor, dims: Sequence[Dim]) -> Tensor:
        """Reshape, seen through earlier reshapes and left out where nothing changes."""
        build = self._builder
        before = build.producer(x, "Reshape")
        if before is not None and x in self._held:
            return self.held(build.tensor_of(before.inputs[0]), self._held[x], dims)
        if before is not None:
            x = build.tensor_of(before.inputs[0])
        if tuple(dims) == x.dims:
            return x
        wanted: list[Dim] = list(dims)
        for axis, dim in enumerate(wanted):
            if not isinstance(dim, int) and axis < x.rank and x.dims[axis] == dim:
                wanted[axis] = 0  # copies the input's size
        computed = [axis for axis, dim in enumerate(wanted) if not isinstance(dim, int)]
        # A size of 0 elsewhere would be taken for a copy and would make -1 ambiguous.
        if 0 in dims:
            return build.op("Reshape", [x, self.shape(dims)], x.dtype, dims, allowzero=1)
        if len(computed) == 1:
            wanted[computed[0]] = -1
        return build.op("Reshape", [x, self.shape(wanted)], x.dtype, dims)

    def held(self, x: Tensor, flag: Tensor, dims: Sequence[Dim]) -> Tensor:
        """Reshape once a flag (bool, shape (1,)) is there, whatever it says; a later reshape of it waits, too."""
        shape = self.shape(dims)
        chosen = self._builder.op("Where", [flag, shape, shape], INT64, shape.dims)
        waiting = self._builder.op("Reshape", [x, chosen], x.dtype, dims)
        self._held[waiting] = flag
        return waiting

    def expand(self, x: Tensor, dims: Sequence[Dim]) -> Tensor:
        """Broadcast to a shape, where it is another."""
        if tuple(dims) == x.dims:
            return x
        return self._builder.op("Expand", [x, self.shape(dims)], x.dtype, dims)

    def filled(self, value: float | bool, dims: Sequence[Dim], dtype: torch.dtype) -> Tensor:
        """Return a tensor with the same value everywhere."""
        scalar = self._builder.constant(value, dtype)
        return self.expand(scalar, dims)


_OPERATORS = {
    sympy.Add: "Add",
    sympy.Mul: "Mul",
    FloorDiv: "Div",  # sizes are not negative, so truncation is the floor
    CleanDiv: "Div",
    Mod: "Mod",
    PythonMod: "Mod",
    Max: "Max",
    Min: "Min",
    sympy.Max: "Max",
    sympy.Min: "Min",
}
