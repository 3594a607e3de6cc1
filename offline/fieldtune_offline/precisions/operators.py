"""Products with a packed matrix as operators of torch: a model that uses them is traced, differentiated and compared.

In torch they compute what the graphs compute; a trace keeps them whole, and ``lowerings`` turns each into the nodes of
its precision. The gradient has an operator of its own, whose matrix goes by other names over the same bytes: ONNX
Runtime would make one of equal nodes, and keep the unpacked matrix from the forward pass to the backward pass.
"""

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from fieldtune_offline.lowering.builder import PACKED, Tensor
from fieldtune_offline.lowering.call import Call, Lowerings
from fieldtune_offline.lowering.shapes import size_of
from fieldtune_offline.precisions.int8 import gathered_rows, lower_rows
from fieldtune_offline.precisions.interface import PackedInputs, Precision
from fieldtune_offline.precisions.table import precision_of

PRODUCT = "product"
"""Where the meta of a graph's value says that it is a product of integers, and of what: a ``Product``."""

_unpacked = contextvars.ContextVar("unpacked", default=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Product:
    """A product of integers in a graph: what it was computed from.

    Attributes:
        recipe: of the precision.
        given: name of the value that was multiplied, of shape (n, width).
        parts: names of the packed matrix's parts in the file.
        rows: of the matrix.
        columns: of the matrix.
        backward: whether it is the gradient of the input.
    """

    recipe: str
    given: str
    parts: tuple[str, ...]
    rows: int
    columns: int
    backward: bool


@contextlib.contextmanager
def unpacked_products() -> Iterator[None]:
    """Have torch multiply with unpacked matrices, also where a precision's products are of integers."""
    before = _unpacked.set(True)
    try:
        yield
    finally:
        _unpacked.reset(before)


def _multiplying(precision: Precision, *, unpacked: bool) -> type[Precision]:
    """Return the class whose products are taken: the precision's own, or that of products with unpacked matrices."""
    return Precision if unpacked and precision.integer else type(precision)


@torch.library.custom_op("fieldtune::packed_product", mutates_args=())
def packed_product(x: torch.Tensor, parts: Sequence[torch.Tensor], recipe: str, rows: int) -> torch.Tensor:
    """Return x (…, columns) times a packed matrix transposed: (…, rows)."""
    precision = precision_of(recipe)
    return _multiplying(precision, unpacked=_unpacked.get()).product(precision, x, parts, rows)


@torch.library.custom_op("fieldtune::packed_input_gradient", mutates_args=())
def packed_input_gradient(
    gradient: torch.Tensor, parts: Sequence[torch.Tensor], recipe: str, columns: int
) -> torch.Tensor:
    """Return a gradient (…, rows) times a packed matrix: (…, columns)."""
    precision = precision_of(recipe)
    return _multiplying(precision, unpacked=_unpacked.get()).input_gradient(precision, gradient, parts, columns)


@torch.library.custom_op("fieldtune::packed_rows", mutates_args=())
def packed_rows(ids: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return rows of an int8 matrix: (…, columns) for ids (…)."""
    return gathered_rows(ids, codes, scales)


@packed_product.register_fake
def _(x: torch.Tensor, _parts: Sequence[torch.Tensor], _recipe: str, rows: int) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], rows))


@packed_input_gradient.register_fake
def _(gradient: torch.Tensor, _parts: Sequence[torch.Tensor], _recipe: str, columns: int) -> torch.Tensor:
    return gradient.new_empty((*gradient.shape[:-1], columns))


@packed_rows.register_fake
def _(ids: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return scales.new_empty((*ids.shape, codes.shape[1]))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    del output
    x, ctx.parts, ctx.recipe, _ = inputs
    ctx.columns = x.shape[-1]


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    result = packed_input_gradient(gradient, ctx.parts, ctx.recipe, ctx.columns)
    return result, [None] * len(ctx.parts), None, None


packed_product.register_autograd(_backward, setup_context=_keep)


def lowerings(*, unpacked: bool) -> Lowerings:
    """Return how the operators are lowered.

    Args:
        unpacked: whether products of integers give way to products of unpacked matrices.
    """
    return {
        torch.ops.fieldtune.packed_product.default: functools.partial(_lower_product, unpacked=unpacked),
        torch.ops.fieldtune.packed_input_gradient.default: functools.partial(_lower_gradient, unpacked=unpacked),
        torch.ops.fieldtune.packed_rows.default: _lower_rows,
    }


def _lower_product(call: Call, *, unpacked: bool) -> Tensor:
    x = _flat(call, "x")
    columns = x.dims[1]
    assert isinstance(columns, int)
    packed = PackedInputs(_parts(call), int(call.number("rows")), columns)
    return _lowered(call, x, packed, backward=False, unpacked=unpacked)


def _lower_gradient(call: Call, *, unpacked: bool) -> Tensor:
    gradient = _flat(call, "gradient")
    rows = gradient.dims[1]
    assert isinstance(rows, int)
    parts = [call.build.twin(part) for part in _parts(call)]
    packed = PackedInputs(parts, rows, int(call.number("columns")))
    return _lowered(call, gradient, packed, backward=True, unpacked=unpacked)


def _lowered(call: Call, given: Tensor, packed: PackedInputs, *, backward: bool, unpacked: bool) -> Tensor:
    product = lowered_product(call, call.raw("recipe"), given, packed, backward=backward, unpacked=unpacked)
    return call.shapes.reshape(product, call.dims)


def lowered_product(
    call: Call, recipe: str, given: Tensor, packed: PackedInputs, *, backward: bool = False, unpacked: bool
) -> Tensor:
    """Emit a product, or the gradient of its input, and mark it where it is one of integers.

    Args:
        call: what to build with.
        recipe: of the precision.
        given: of shape (n, columns), or going backward (n, rows).
        packed: the matrix.
        backward: whether it is the gradient of the input.
        unpacked: whether a product of integers gives way to one of the unpacked matrix.
    """
    precision = precision_of(recipe)
    kind = _multiplying(precision, unpacked=unpacked)
    product = (kind.lower_input_gradient if backward else kind.lower_product)(precision, call, given, packed)
    if kind.integer:
        names = tuple(str(part.value.name) for part in packed.parts)
        made_of = Product(precision.recipe, str(given.value.name), names, packed.rows, packed.columns, backward)
        product.value.meta[PRODUCT] = made_of
    return product


def _lower_rows(call: Call) -> Tensor:
    codes, scales = (marked(call.tensor(name)) for name in ("codes", "scales"))
    return lower_rows(call, call.tensor("ids"), codes, scales)


def _parts(call: Call) -> list[Tensor]:
    return [marked(part) for part in call.tensors("parts")]


def marked(part: Tensor) -> Tensor:
    """Mark a weight as a part of a packed matrix, and return it."""
    part.value.meta[PACKED] = True
    return part


def _flat(call: Call, name: str) -> Tensor:
    x = call.tensor(name)
    return call.shapes.reshape(x, (size_of(x.dims[:-1]), x.dims[-1]))
