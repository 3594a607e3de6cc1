"""Lowering of gathers and scatters."""

import torch
from torch import fx

from fieldtune.errors import UnsupportedModel
from fieldtune_offline.lowering.builder import Dim, Tensor
from fieldtune_offline.lowering.call import Call, Lowerings
from fieldtune_offline.lowering.shapes import size_of

aten = torch.ops.aten
INT64 = torch.int64


def _embedding(call: Call) -> Tensor:
    return call.emit("Gather", call.tensor("weight"), call.tensor("indices"), axis=0)


def _index_select(call: Call) -> Tensor:
    x = call.tensor("self")
    return call.emit("Gather", x, call.tensor("index"), axis=call.axis("dim", x.rank))


def _gather(call: Call) -> Tensor:
    x = call.tensor("self")
    return call.emit("GatherElements", x, call.tensor("index"), axis=call.axis("dim", x.rank))


def _scatter(call: Call, updates: Tensor, **reduction: str) -> Tensor:
    x, index = call.operand("self", call.dtype), call.tensor("index")
    return call.emit("ScatterElements", x, index, updates, axis=call.axis("dim", x.rank), **reduction)


def _scatter_value(call: Call) -> Tensor:
    index = call.tensor("index")
    return _scatter(call, call.shapes.expand(call.operand("value", call.dtype), index.dims))


def _scatter_src(call: Call) -> Tensor:
    return _scatter(call, _cropped(call))


def _scatter_add(call: Call) -> Tensor:
    return _scatter(call, _cropped(call), reduction="add")


def _cropped(call: Call) -> Tensor:
    source, index = call.operand("src", call.dtype), call.tensor("index")
    if source.dims != index.dims:
        raise UnsupportedModel(f"{call.node.target}: a source of another shape than its index is not supported")
    return source


def _indices(call: Call) -> tuple[list[int], list[Tensor]]:
    given = [(axis, item) for axis, item in enumerate(call.raw("indices")) if item is not None]
    tensors = [call.of(item) for _, item in given]
    for _, item in given:
        assert isinstance(item, fx.Node)
        if item.meta["val"].dtype == torch.bool:
            raise UnsupportedModel(f"{call.node.target}: a mask as an index has a size that depends on data")
    return [axis for axis, _ in given], [call.build.cast(tensor, INT64) for tensor in tensors]


def _joined(call: Call, indices: list[Tensor]) -> Tensor:
    """Broadcast index tensors against each other and stack them on a last axis, as GatherND and ScatterND take them."""
    rank = max(index.rank for index in indices)
    padded = [(1,) * (rank - index.rank) + index.dims for index in indices]
    dims = tuple(next((d for d in sizes if d != 1), 1) for sizes in zip(*padded, strict=True))
    columns = [
        call.shapes.reshape(call.shapes.expand(call.shapes.reshape(index, before), dims), (*dims, 1))
        for index, before in zip(indices, padded, strict=True)
    ]
    if len(columns) == 1:
        return columns[0]
    return call.build.op("Concat", columns, INT64, (*dims, len(columns)), axis=-1)


def _lead(axes: list[int]) -> int:
    """Return where indexing puts the axes that it found: in place of the indexed ones if adjacent, else in front."""
    return axes[0] if axes == list(range(axes[0], axes[0] + len(axes))) else 0


def _index(call: Call) -> Tensor:
    x = call.tensor("self")
    axes, indices = _indices(call)
    if len(axes) == 1:
        return call.emit("Gather", x, indices[0], axis=axes[0])
    # GatherND indexes leading axes: bring the indexed ones to the front, and what it found back behind the others.
    lead = _lead(axes)
    moved = call.build.transpose(x, [*axes, *(axis for axis in range(x.rank) if axis not in axes)])
    joined = _joined(call, indices)
    gathered = joined.rank - 1
    dims = (*joined.dims[:-1], *moved.dims[len(axes) :])
    result = call.build.op("GatherND", [moved, joined], x.dtype, dims)
    back = [*range(gathered, gathered + lead), *range(gathered), *range(gathered + lead, len(dims))]
    return call.build.transpose(result, back)


def _index_put(call: Call) -> Tensor:
    x = call.tensor("self")
    axes, indices = _indices(call)
    lead = _lead(axes)
    rest = [axis for axis in range(x.rank) if axis not in axes]
    joined = _joined(call, indices)
    gathered = joined.rank - 1
    # Values lie as indexing would return them; scattering wants the found axes in front, as it wants the indexed ones.
    kept = [x.dims[axis] for axis in rest]
    dims = (*kept[:lead], *joined.dims[:-1], *kept[lead:])
    values = call.operand("values", call.dtype)
    values = call.shapes.expand(call.shapes.reshape(values, (1,) * (len(dims) - values.rank) + values.dims), dims)
    values = call.build.transpose(
        values, [*range(lead, lead + gathered), *range(lead), *range(lead + gathered, len(dims))]
    )
    perm = [*axes, *rest]
    moved = call.build.transpose(x, perm)
    if call.raw("accumulate"):
        result = _accumulated(call, moved, joined, values)
    else:
        result = call.build.op("ScatterND", [moved, joined, values], x.dtype, moved.dims)
    return call.build.transpose(result, [perm.index(axis) for axis in range(x.rank)])


def _accumulated(call: Call, base: Tensor, joined: Tensor, values: Tensor) -> Tensor:
    """Add values to the places of ``base`` that are indexed on its leading axes, as often as a place is named.

    ScatterND would be the operator, but ONNX Runtime (1.16 to 1.31) adds on several threads without a lock, and
    additions to one place get lost; its ScatterElements adds one after another.
    """
    count = joined.dims[-1]
    assert isinstance(count, int)
    indexed, kept = base.dims[:count], size_of(base.dims[count:])
    places = call.shapes.reshape(_places(call, joined, indexed), (size_of(joined.dims[:-1]), 1))
    dims = (places.dims[0], kept)
    flat = call.shapes.reshape(base, (size_of(indexed), kept))
    added = call.build.op(
        "ScatterElements",
        [flat, call.shapes.expand(places, dims), call.shapes.reshape(values, dims)],
        base.dtype,
        flat.dims,
        axis=0,
        reduction="add",
    )
    return call.shapes.reshape(added, base.dims)


def _places(call: Call, joined: Tensor, indexed: tuple[Dim, ...]) -> Tensor:
    """Return the row-major place that each tuple of indices, on the last axis, names in a shape; -1 is the last."""
    build, dims = call.build, joined.dims[:-1]
    if len(indexed) == 1:
        return joined
    sizes = call.shapes.shape(indexed)
    strides = call.shapes.shape([size_of(indexed[axis + 1 :]) for axis in range(len(indexed))])
    wrapped = build.op("Mod", [joined, sizes], INT64, joined.dims)
    offsets = build.op("Mul", [wrapped, strides], INT64, joined.dims)
    return build.op("ReduceSum", [offsets, build.constant([-1], INT64)], INT64, dims, keepdims=0)


def _nonzero(call: Call) -> Tensor:
    """Positions that are not zero; their number is a size of its own, read from this result."""
    x = call.tensor("self")
    count = call.dims[0]
    positions = call.build.op("NonZero", [x], INT64, [x.rank, count])
    return call.build.transpose(positions, [1, 0])


LOWERINGS: Lowerings = {
    aten.nonzero.default: _nonzero,
    aten.embedding.default: _embedding,
    aten.index_select.default: _index_select,
    aten.gather.default: _gather,
    aten.scatter.value: _scatter_value,
    aten.scatter.src: _scatter_src,
    aten.scatter_add.default: _scatter_add,
    aten.index.Tensor: _index,
    aten.index_put.default: _index_put,
    aten._unsafe_index_put.default: _index_put,
}
