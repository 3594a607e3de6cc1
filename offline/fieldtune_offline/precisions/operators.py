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


@torch.library.custom_op("fieldtune::exact_product", mutates_args=())
def exact_product(
    x: torch.Tensor, parts: Sequence[torch.Tensor], recipe: str, rows: int, columns: int, transposed: bool
) -> torch.Tensor:
    """Return x times the unpacked matrix, or its transpose, whatever the precision; nothing is differentiated."""
    matrix = precision_of(recipe).unpack(parts, rows, columns)
    return x @ (matrix.T if transposed else matrix)


@packed_product.register_fake
def _(x: torch.Tensor, _parts: Sequence[torch.Tensor], _recipe: str, rows: int) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], rows))


@packed_input_gradient.register_fake
def _(gradient: torch.Tensor, _parts: Sequence[torch.Tensor], _recipe: str, columns: int) -> torch.Tensor:
    return gradient.new_empty((*gradient.shape[:-1], columns))


@exact_product.register_fake
def _(
    x: torch.Tensor, _parts: Sequence[torch.Tensor], _recipe: str, rows: int, columns: int, transposed: bool
) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], rows if transposed else columns))


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


def lowerings(*, serving: bool = False, unpacked: bool = False) -> Lowerings:
    """Return how the operators are lowered.

    Args:
        serving: whether the parts of packed matrices are constants, and products those of ``Precision.lower_served``.
        unpacked: whether products of integers give way to products of unpacked matrices.
    """
    product = functools.partial(_lower_product, serving=serving, unpacked=unpacked)
    return {
        torch.ops.fieldtune.packed_product.default: product,
        torch.ops.fieldtune.packed_input_gradient.default: functools.partial(_lower_gradient, unpacked=unpacked),
        torch.ops.fieldtune.exact_product.default: _lower_exact,
        torch.ops.fieldtune.packed_rows.default: functools.partial(_lower_rows, serving=serving),
    }


def _lower_product(call: Call, *, serving: bool, unpacked: bool) -> Tensor:
    x = _flat(call, "x")
    columns = x.dims[1]
    assert isinstance(columns, int)
    parts = call.tensors("parts") if serving else marked(call.tensors("parts"))
    packed = PackedInputs(parts, int(call.number("rows")), columns)
    return _lowered(call, x, packed, "lower_served" if serving else "lower_product", unpacked=unpacked)


def _lower_gradient(call: Call, *, unpacked: bool) -> Tensor:
    gradient = _flat(call, "gradient")
    rows = gradient.dims[1]
    assert isinstance(rows, int)
    parts = [call.build.twin(part) for part in marked(call.tensors("parts"))]
    packed = PackedInputs(parts, rows, int(call.number("columns")))
    return _lowered(call, gradient, packed, "lower_input_gradient", unpacked=unpacked)


def _lowered(call: Call, given: Tensor, packed: PackedInputs, how: str, *, unpacked: bool) -> Tensor:
    waiting = dataclasses.replace(packed, parts=held_back(call, packed.parts, given))
    return call.shapes.reshape(lowered_product(call, given, packed, waiting, how, unpacked=unpacked), call.dims)


def lowered_product(
    call: Call, given: Tensor, packed: PackedInputs, waiting: PackedInputs, how: str, *, unpacked: bool
) -> Tensor:
    """Emit a product with the matrix of a call's recipe, and mark it where it is one of integers.

    Args:
        call: what to build with.
        given: of shape (n, columns), or of a gradient (n, rows).
        packed: the matrix.
        waiting: the same, with the parts that it is computed from.
        how: name of the lowering of ``Precision`` that emits it.
        unpacked: whether a product of integers gives way to one of the unpacked matrix.
    """
    precision = precision_of(call.raw("recipe"))
    kind = _multiplying(precision, unpacked=unpacked)
    backward = how == "lower_input_gradient"
    if kind is not type(precision) and not backward:
        how = "lower_product"  # whose own form of the class multiplies with the unpacked matrix
    product: Tensor = getattr(kind, how)(precision, call, given, waiting)
    if kind.integer:
        names = tuple(str(part.value.name) for part in packed.parts)
        made_of = Product(precision.recipe, str(given.value.name), names, packed.rows, packed.columns, backward)
        product.value.meta[PRODUCT] = made_of
    return product


def _lower_exact(call: Call) -> Tensor:
    """Unpack the matrix, as the product beside it does: ONNX Runtime may make one of the two."""
    parts = marked(call.tensors("parts"))
    packed = PackedInputs(parts, int(call.number("rows")), int(call.number("columns")))
    precision, x = precision_of(call.raw("recipe")), _flat(call, "x")
    packed = dataclasses.replace(packed, parts=held_back(call, packed.parts, x))
    kind = _multiplying(precision, unpacked=True)
    lower = kind.lower_product if call.raw("transposed") else kind.lower_input_gradient
    return call.shapes.reshape(lower(precision, call, x, packed), call.dims)


def held_back(call: Call, parts: Sequence[Tensor], given: Tensor) -> Sequence[Tensor]:
    """Return packed parts that are no constants as ones that are not there before what is multiplied with them.

    ONNX Runtime counts what a fusion has made as the last of the graph's nodes, and runs before it whatever is ready:
    all matrices would be unpacked by then. So a part gets its own shape once more, chosen by a number of the other
    factor, which has the shape (n, width).
    """
    return [_waiting(call, part, given) if PACKED in part.value.meta else part for part in parts]


def _waiting(call: Call, part: Tensor, given: Tensor) -> Tensor:
    place = call.build.constant([[0, 0]], torch.int64)
    number = call.build.op("GatherND", [given, place], given.dtype, (1,))
    return call.shapes.held(part, call.build.cast(number, torch.bool), part.dims)


def _lower_rows(call: Call, *, serving: bool) -> Tensor:
    parts = [call.tensor(name) for name in ("codes", "scales")]
    codes, scales = parts if serving else marked(parts)
    return lower_rows(call, call.tensor("ids"), codes, scales)


def marked(parts: Sequence[Tensor]) -> Sequence[Tensor]:
    """Mark weights as parts of a packed matrix, and return them."""
    for part in parts:
        part.value.meta[PACKED] = True
    return parts


def _flat(call: Call, name: str) -> Tensor:
    x = call.tensor(name)
    return call.shapes.reshape(x, (size_of(x.dims[:-1]), x.dims[-1]))
