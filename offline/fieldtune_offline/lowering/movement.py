"""Lowering of operators that make, move, cut and join tensors without computing."""

import torch

from fieldtune_offline.lowering import padding  # noqa: F401 (registers fieldtune::zero_pad)
from fieldtune_offline.lowering.builder import Dim, Tensor
from fieldtune_offline.lowering.call import Call, Lowerings

aten = torch.ops.aten
INT64 = torch.int64
_END = torch.iinfo(INT64).max


def _view(call: Call) -> Tensor:
    return call.shapes.reshape(call.tensor("self"), call.dims)


def _permute(call: Call) -> Tensor:
    x = call.tensor("self")
    return call.build.transpose(x, call.axes("dims", x.rank))


def _transpose(call: Call) -> Tensor:
    x = call.tensor("self")
    perm = list(range(x.rank))
    first, second = call.axis("dim0", x.rank), call.axis("dim1", x.rank)
    perm[first], perm[second] = perm[second], perm[first]
    return call.build.transpose(x, perm)


def _t(call: Call) -> Tensor:
    x = call.tensor("self")
    return x if x.rank < 2 else call.build.transpose(x, [1, 0])


def _expand(call: Call) -> Tensor:
    return call.shapes.expand(call.tensor("self"), call.dims)


def _repeat(call: Call) -> Tensor:
    x = call.tensor("self")
    repeats = [call.dim(item) for item in call.raw("repeats")]
    x = call.shapes.reshape(x, (1,) * (len(repeats) - x.rank) + x.dims)
    return x if all(repeat == 1 for repeat in repeats) else call.emit("Tile", x, call.shapes.shape(repeats))


def _bound(call: Call, name: str, absent: int) -> Tensor:
    argument = call.raw(name)
    return call.shapes.size(call.dim(absent if argument is None else argument))


def _cut(call: Call, x: Tensor, axis: int, dims: tuple[Dim, ...], start: Tensor, end: Tensor, step: int = 1) -> Tensor:
    """Return x[start:end:step] along an axis."""
    axes, steps = call.build.constant([axis], INT64), call.build.constant([step], INT64)
    return call.build.op("Slice", [x, start, end, axes, steps], x.dtype, dims)


def _slice(call: Call) -> Tensor:
    x = call.tensor("self")
    if call.dims == x.dims:
        return x  # a slice of step 1 that keeps the size keeps everything
    start, end = _bound(call, "start", 0), _bound(call, "end", _END)
    return _cut(call, x, call.axis("dim", x.rank), call.dims, start, end, int(call.number("step")))


def _select(call: Call) -> Tensor:
    x = call.tensor("self")
    index = call.operand("index", INT64)
    return call.emit("Gather", x, index, axis=call.axis("dim", x.rank))


def _cat(call: Call) -> Tensor:
    parts = [call.build.cast(part, call.dtype) for part in call.tensors("tensors") if part.dims != (0,)]
    return parts[0] if len(parts) == 1 else call.emit("Concat", *parts, axis=call.axis("dim", parts[0].rank))


def _split(call: Call) -> tuple[Tensor, ...]:
    x = call.tensor("self")
    axis = call.axis("dim", x.rank)
    shapes = [call.shapes.dims(result.shape) for result in call.results]
    sizes = call.shapes.shape([dims[axis] for dims in shapes])
    return call.build.ops("Split", [x, sizes], [(x.dtype, dims) for dims in shapes], axis=axis)


def _pad(call: Call) -> Tensor:
    x = call.tensor("self") if call.has("self") else call.tensor("x")
    pads = [call.dim(item) for item in call.raw("pad")]
    # torch lists (before, after) from the last axis on; ONNX all befores, then all afters, from the first
    before: list[Dim] = [0] * x.rank
    after: list[Dim] = [0] * x.rank
    for place in range(len(pads) // 2):
        before[x.rank - 1 - place], after[x.rank - 1 - place] = pads[2 * place], pads[2 * place + 1]
    value = call.raw("value") if call.has("value") else 0
    return call.emit("Pad", x, call.shapes.shape([*before, *after]), call.operand_of(value, x.dtype))


def _is_zero(call: Call, x: Tensor) -> bool:
    expand = call.build.producer(x, "Expand")
    held = call.build.constant_of(call.build.tensor_of(expand.inputs[0]) if expand else x)
    return held is not None and not held.any()


def _slice_scatter(call: Call) -> Tensor:
    """Put ``src`` into a slice of ``self``: padding where self is zero, else joined with the parts beside it."""
    base, source = call.tensor("self"), call.build.cast(call.tensor("src"), call.dtype)
    if source.dims == base.dims:
        return source
    axis = call.axis("dim", base.rank)
    if call.raw("step") != 1:
        return _strided_scatter(call, base, source, axis)
    size = base.dims[axis]
    start = _from_front(call, "start", size)
    width = source.dims[axis]
    rest = size - start - width
    if _is_zero(call, base):
        before: list[Dim] = [0] * base.rank
        after: list[Dim] = [0] * base.rank
        before[axis], after[axis] = start, rest
        zero = call.build.constant(0, call.dtype)
        return call.emit("Pad", source, call.shapes.shape([*before, *after]), zero)
    parts = [source]
    if start != 0:
        dims = (*base.dims[:axis], start, *base.dims[axis + 1 :])
        parts.insert(0, _cut(call, base, axis, dims, call.shapes.size(0), call.shapes.size(start)))
    if rest != 0:
        dims = (*base.dims[:axis], rest, *base.dims[axis + 1 :])
        parts.append(_cut(call, base, axis, dims, call.shapes.size(start + width), call.shapes.size(_END)))
    return call.emit("Concat", *parts, axis=axis)


def _counted(call: Call, count: Dim) -> Tensor:
    """Return 0, 1, …, count - 1 (int64)."""
    return call.build.op("Range", [call.shapes.scalar(size) for size in (0, count, 1)], INT64, [count])


def _from_front(call: Call, name: str, size: Dim) -> Dim:
    # Torch counts a negative place from the end.
    place = call.dim(call.raw(name) or 0)
    return size + place if isinstance(place, int) and place < 0 else place


def _strided_scatter(call: Call, base: Tensor, source: Tensor, axis: int) -> Tensor:
    """Put ``source`` into every step-th place: element by element, with the places along the axis broadcast."""
    start, step = call.shapes.scalar(_from_front(call, "start", base.dims[axis])), int(call.number("step"))
    count = source.dims[axis]
    places = call.build.op("Mul", [_counted(call, count), call.build.constant(step, INT64)], INT64, [count])
    places = call.build.op("Add", [places, start], INT64, [count])
    column = call.shapes.reshape(places, [count if a == axis else 1 for a in range(base.rank)])
    return call.emit("ScatterElements", base, call.shapes.expand(column, source.dims), source, axis=axis)


def _copy(call: Call) -> Tensor:
    return call.shapes.expand(call.operand("src", call.dtype), call.dims)


def _select_scatter(call: Call) -> Tensor:
    base, source = call.tensor("self"), call.build.cast(call.tensor("src"), call.dtype)
    axis = call.axis("dim", base.rank)
    source = call.shapes.reshape(source, (*base.dims[:axis], 1, *base.dims[axis + 1 :]))
    size = base.dims[axis]
    index = call.shapes.scalar(_from_front(call, "index", size))
    here = call.build.op("Equal", [_counted(call, size), index], torch.bool, [size])
    column = call.shapes.reshape(here, [size if a == axis else 1 for a in range(base.rank)])
    return call.emit("Where", column, source, base)


def _flip(call: Call) -> Tensor:
    x = call.tensor("self")
    axes = call.axes("dims", x.rank)
    starts = call.build.constant([-1] * len(axes), INT64)
    ends = call.build.constant([torch.iinfo(INT64).min] * len(axes), INT64)
    return call.emit("Slice", x, starts, ends, call.build.constant(axes, INT64), starts)


def _full(call: Call) -> Tensor:
    value = call.raw("fill_value")
    return call.shapes.expand(call.operand_of(value, call.dtype), call.dims)


def _scalar(call: Call) -> Tensor:
    return call.operand("s", call.dtype)


def _zeros(call: Call) -> Tensor:
    return call.shapes.filled(0, call.dims, call.dtype)


def _ones(call: Call) -> Tensor:
    return call.shapes.filled(1, call.dims, call.dtype)


def _arange(call: Call) -> Tensor:
    step = call.raw("step") if call.has("step") else 1
    bounds = [call.operand_of(argument, call.dtype) for argument in (call.raw("start"), call.raw("end"), step)]
    return call.emit("Range", *bounds)


def _triangle(call: Call, *, upper: int) -> Tensor:
    # ONNX Runtime before 1.17 has no Trilu of truth values, none has one of small integers.
    dtype = call.dtype if call.dtype.is_floating_point else INT64
    x = call.operand("self", dtype)
    result = call.build.op("Trilu", [x, call.operand("diagonal", INT64)], dtype, call.dims, upper=upper)
    return call.build.cast(result, call.dtype)


LOWERINGS: Lowerings = {
    aten.view.default: _view,
    aten._unsafe_view.default: _view,
    aten.reshape.default: _view,
    aten.unsqueeze.default: _view,
    aten.squeeze.default: _view,
    aten.squeeze.dim: _view,
    aten.squeeze.dims: _view,
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.t.default: _t,
    aten.expand.default: _expand,
    aten.repeat.default: _repeat,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.cat.default: _cat,
    aten.split_with_sizes.default: _split,
    aten.split.Tensor: _split,
    aten.constant_pad_nd.default: _pad,
    torch.ops.fieldtune.zero_pad.default: _pad,
    aten.slice_scatter.default: _slice_scatter,
    aten.select_scatter.default: _select_scatter,
    aten.copy.default: _copy,
    aten.flip.default: _flip,
    aten.full.default: _full,
    aten.full_like.default: _full,
    aten.new_full.default: _full,
    aten.scalar_tensor.default: _scalar,
    aten.zeros.default: _zeros,
    aten.zeros_like.default: _zeros,
    aten.new_zeros.default: _zeros,
    # Whatever is left uninitialized is overwritten before it is read; zero makes runs repeat.
    aten.empty.memory_format: _zeros,
    aten.empty_like.default: _zeros,
    aten.empty_permuted.default: _zeros,
    aten.new_empty.default: _zeros,
    aten.new_empty_strided.default: _zeros,
    aten.empty_strided.default: _zeros,
    aten.ones.default: _ones,
    aten.ones_like.default: _ones,
    aten.new_ones.default: _ones,
    aten.arange.start_step: _arange,
    aten.tril.default: lambda call: _triangle(call, upper=0),
    aten.triu.default: lambda call: _triangle(call, upper=1),
}
