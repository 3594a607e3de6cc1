"""One operator call of an exported program, as the lowering functions see it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import fx

from fieldtune_offline.lowering.builder import Dim, GraphBuilder, Tensor
from fieldtune_offline.lowering.shapes import Shapes

Lowered: TypeAlias = "Tensor | tuple[Tensor | None, ...]"
"""What a call gives; None in the place of a result that is not asked for."""


class Call:
    """A call's arguments by their schema names, its result's dtype and dimensions, and what to build with."""

    def __init__(
        self, node: fx.Node, environment: Mapping[fx.Node, Lowered], build: GraphBuilder, shapes: Shapes
    ) -> None:
        self.node = node
        self.build = build
        self.shapes = shapes
        self._environment = environment
        assert isinstance(node.target, torch._ops.OpOverload)
        schema = node.target._schema.arguments
        self._arguments: dict[str, Any] = {argument.name: argument.default_value for argument in schema}
        self._arguments.update(zip((argument.name for argument in schema), node.args, strict=False))
        self._arguments.update(node.kwargs)
        result = node.meta["val"]
        self.results: Sequence[torch.Tensor] = result if isinstance(result, tuple | list) else [result]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first result."""
        return self.results[0].dtype

    @property
    def dims(self) -> tuple[Dim, ...]:
        """The dimensions of the first result."""
        return self.shapes.dims(self.results[0].shape)

    def inside(self, build: GraphBuilder, shapes: Shapes) -> "Call":
        """Return the same call, to be built with in a loop's body."""
        return Call(self.node, self._environment, build, shapes)

    def wanted(self, index: int) -> bool:
        """Whether anything reads one of several results."""
        return any(user.args[1] == index and user.users for user in self.node.users)

    def raw(self, name: str) -> Any:
        """An argument as the program has it."""
        return self._arguments[name]

    def has(self, name: str) -> bool:
        """Whether an argument is given and not None."""
        return self._arguments.get(name) is not None

    def number(self, name: str) -> int | float | bool:
        """A Python number."""
        value = self._arguments[name]
        assert isinstance(value, int | float), (self.node.target, name, value)
        return value

    def axis(self, name: str, rank: int) -> int:
        """An axis, counted from the front."""
        value = self._arguments[name]
        assert isinstance(value, int)
        return value % rank if rank else 0

    def axes(self, name: str, rank: int) -> list[int]:
        """Axes, counted from the front; all of them where none are given."""
        value = self._arguments.get(name)
        if value is None or (isinstance(value, Sequence) and not value):
            return list(range(rank))
        return [axis % rank for axis in ([value] if isinstance(value, int) else value)]

    def tensor(self, name: str) -> Tensor:
        """A tensor argument, in its own dtype."""
        return self.of(self._arguments[name])

    def tensors(self, name: str) -> list[Tensor]:
        """A list of tensors."""
        return [self.of(item) for item in self._arguments[name]]

    def of(self, argument: object) -> Tensor:
        """The tensor of a node that stands for one."""
        assert isinstance(argument, fx.Node), argument
        lowered = self._environment[argument]
        assert isinstance(lowered, Tensor)
        return lowered

    def operand(self, name: str, dtype: torch.dtype) -> Tensor:
        """A tensor, number or size as a tensor of this dtype, ready to be broadcast."""
        return self.operand_of(self._arguments[name], dtype)

    def operand_of(self, argument: object, dtype: torch.dtype) -> Tensor:
        """As ``operand``, of the argument itself."""
        if isinstance(argument, fx.Node) and not isinstance(argument.meta["val"], torch.Tensor):
            return self.build.cast(self.shapes.scalar(self.dim(argument)), dtype)
        if isinstance(argument, fx.Node):
            return self.build.cast(self.of(argument), dtype)
        assert isinstance(argument, int | float)
        return self.build.constant(argument, dtype)

    def dim(self, argument: object) -> Dim:
        """A size: a number, or a node that stands for a symbolic one."""
        return self.shapes.dim(argument.meta["val"] if isinstance(argument, fx.Node) else argument)

    def common_dtype(self, *names: str) -> torch.dtype:
        """The dtype in which torch compares or combines these arguments."""
        values = [a.meta["val"] if isinstance(a := self._arguments[name], fx.Node) else a for name in names]
        values = [value if isinstance(value, torch.Tensor | int | float | bool) else 0 for value in values]
        dtype = torch.result_type(values[0], values[1])
        assert isinstance(dtype, torch.dtype)
        return dtype

    def emit(self, op_type: str, *inputs: Tensor | None, **attributes: Any) -> Tensor:
        """A node with this call's result."""
        return self.build.op(op_type, inputs, self.dtype, self.dims, **attributes)


Lower: TypeAlias = Callable[[Call], Lowered]
Lowerings: TypeAlias = Mapping[torch._ops.OpOverload, Lower]
