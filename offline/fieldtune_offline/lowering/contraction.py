"""Lowering of matrix products and of reductions.

A frozen weight lies in Hugging Face's orientation (out_features, in_features) and stays there: forward is
``Gemm(transB=1)``, backward ``Gemm(transB=0)``, so that both read the same memory-mapped bytes.
"""

from collections.abc import Sequence

import torch

from fieldtune.errors import UnsupportedModel
from fieldtune_offline.lowering.builder import Dim, Tensor
from fieldtune_offline.lowering.call import Call, Lower, Lowered, Lowerings
from fieldtune_offline.lowering.shapes import size_of

aten = torch.ops.aten
INT64 = torch.int64


def _untransposed(call: Call, x: Tensor) -> tuple[Tensor, int]:
    # A transposed operand is read through Gemm's flag; the Transpose is then nobody's input and vanishes.
    node = call.build.producer(x, "Transpose")
    return (call.build.tensor_of(node.inputs[0]), 1) if node is not None else (x, 0)


def _gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None, alpha: float = 1.0, beta: float = 1.0) -> Tensor:
    a, trans_a = _untransposed(call, a)
    b, trans_b = _untransposed(call, b)
    inputs = [a, b] if c is None else [a, b, c]
    return call.emit("Gemm", *inputs, alpha=alpha, beta=beta, transA=trans_a, transB=trans_b)


def _mm(call: Call) -> Tensor:
    return _gemm(call, call.tensor("self"), call.tensor("mat2"), None)


def _addmm(call: Call) -> Tensor:
    alpha, beta = float(call.number("alpha")), float(call.number("beta"))
    return _gemm(call, call.tensor("mat1"), call.tensor("mat2"), call.tensor("self"), alpha, beta)


def _mv(call: Call) -> Tensor:
    return call.emit("MatMul", call.tensor("self"), call.tensor("vec"))


def _bmm(call: Call) -> Tensor:
    """Multiply the factors as they were before torch made one axis of all but the last two.

    Nothing is moved, then: ONNX Runtime reads a transposition beside a product through a flag, and heads that share
    keys and values share them without a copy for each.
    """
    a, b = call.tensor("self"), call.tensor("mat2")
    found = [_batched(call, factor) for factor in (a, b)]
    batch = max((own for _, own in found), key=len)
    one, other = (_spread(call, x, own, batch) for x, own in found)
    if one is None or other is None or batch not in (one.dims[:-2], other.dims[:-2]):
        return call.emit("MatMul", a, b)
    product = call.build.op("MatMul", [one, other], call.dtype, (*batch, a.dims[-2], b.dims[-1]))
    return call.shapes.reshape(product, call.dims)


def _spread(call: Call, x: Tensor, own: tuple[Dim, ...], batch: tuple[Dim, ...]) -> Tensor | None:
    """Return matrices with the axes of another batch; None where they are others, or several of their own share one."""
    if own == batch:
        return x
    fits = x.dims[:-2] == own and size_of(own) == size_of(batch)
    return call.shapes.reshape(x, (*batch, *x.dims[-2:])) if fits else None


def _batched(call: Call, x: Tensor) -> tuple[Tensor, tuple[Dim, ...]]:
    """Return what matrices are made from, some of which may be several of a batch, and the axes of that batch."""
    build, swapped = call.build, False
    while True:
        matrix = x.dims[-2:]
        if (node := build.producer(x, "Transpose")) and _swaps(node.attributes["perm"].as_ints()):
            x, swapped = build.tensor_of(node.inputs[0]), not swapped
        elif (node := build.producer(x, "Reshape")) and build.tensor_of(node.inputs[0]).dims[-2:] == matrix:
            x = build.tensor_of(node.inputs[0])
        else:
            break
    lead = x.dims[:-2]
    node = build.producer(x, "Expand")
    if node is not None and (shared := build.tensor_of(node.inputs[0])).rank == x.rank and shared.dims[-2:] == matrix:
        x = shared
    rest = range(x.rank - 2)
    return build.transpose(x, (*rest, x.rank - 1, x.rank - 2)) if swapped else x, lead


def _swaps(perm: Sequence[int]) -> bool:
    """Whether a permutation swaps the last two axes and no others."""
    return list(perm) == [*range(len(perm) - 2), len(perm) - 1, len(perm) - 2]


def _baddbmm(call: Call) -> Tensor:
    product = call.emit("MatMul", call.tensor("batch1"), call.tensor("batch2"))
    alpha, beta, base = call.raw("alpha"), call.raw("beta"), call.tensor("self")
    if alpha != 1:
        product = call.emit("Mul", product, call.operand_of(alpha, call.dtype))
    if beta == 0:
        return product
    if beta != 1:
        base = call.build.op("Mul", [base, call.operand_of(beta, call.dtype)], base.dtype, base.dims)
    return call.emit("Add", base, product)


def _reduction(op_type: str) -> Lower:
    def lower(call: Call) -> Tensor:
        x = call.tensor("self")
        x = call.build.cast(x, call.dtype if call.dtype != torch.bool else torch.int32)
        axes = call.axes("dim", x.rank)
        keep = bool(call.raw("keepdim")) if call.has("keepdim") else False
        if not axes:
            return call.build.cast(x, call.dtype)
        result = call.build.op(op_type, [x, call.build.constant(axes, INT64)], x.dtype, call.dims, keepdims=int(keep))
        return call.build.cast(result, call.dtype)

    return lower


def _truth(op_type: str) -> Lower:
    # any is the maximum and all the minimum of truth values
    def lower(call: Call) -> Tensor:
        x = call.build.cast(call.build.cast(call.tensor("self"), torch.bool), torch.int32)
        axes = call.build.constant(call.axes("dim", x.rank), INT64)
        keep = bool(call.raw("keepdim")) if call.has("keepdim") else False
        result = call.build.op(op_type, [x, axes], torch.int32, call.dims, keepdims=int(keep))
        return call.build.cast(result, torch.bool)

    return lower


def _arg(op_type: str) -> Lower:
    def lower(call: Call) -> Tensor:
        x = call.tensor("self")
        if x.dtype == INT64:
            x = call.build.cast(x, torch.float64)  # ONNX Runtime before 1.17 compares no int64 here
        if call.raw("dim") is None:
            flat = call.shapes.reshape(x, (size_of(x.dims),))
            return call.shapes.reshape(call.build.op(op_type, [flat], INT64, [], axis=0, keepdims=0), call.dims)
        return call.emit(op_type, x, axis=call.axis("dim", x.rank), keepdims=int(bool(call.raw("keepdim"))))

    return lower


def _extremum(op_type: str, arg_type: str) -> Lower:
    def lower(call: Call) -> Lowered:
        x = call.tensor("self")
        axis, keep = call.axis("dim", x.rank), int(bool(call.raw("keepdim")))
        axes = call.build.constant([axis], INT64)
        value = call.build.op(op_type, [x, axes], x.dtype, call.dims, keepdims=keep)
        compared = call.build.cast(x, torch.float64) if x.dtype == INT64 else x  # as in _arg
        return value, call.build.op(arg_type, [compared], INT64, call.dims, axis=axis, keepdims=keep)

    return lower


def _cumsum(call: Call) -> Tensor:
    x = call.build.cast(call.tensor("self"), call.dtype)
    if x.rank == 0:
        return x
    return call.emit("CumSum", x, call.build.constant(call.axis("dim", x.rank), INT64))


def _variance(call: Call, x: Tensor, axes: list[int], correction: float, *, keep: bool) -> tuple[Tensor, Tensor]:
    kept = tuple(1 if axis in axes else dim for axis, dim in enumerate(x.dims))
    axes_tensor = call.build.constant(axes, INT64)
    mean = call.build.op("ReduceMean", [x, axes_tensor], x.dtype, kept, keepdims=1)
    centred = call.build.op("Sub", [x, mean], x.dtype, x.dims)
    square = call.build.op("Mul", [centred, centred], x.dtype, x.dims)
    dims = kept if keep else tuple(dim for axis, dim in enumerate(x.dims) if axis not in axes)
    total = call.build.op("ReduceSum", [square, axes_tensor], x.dtype, dims, keepdims=int(keep))
    count = 1
    for axis in axes:
        size = x.dims[axis]
        if not isinstance(size, int):
            raise UnsupportedModel(f"{call.node.target}: a variance over an axis whose size varies is not supported")
        count *= size
    divisor = call.build.constant(max(0.0, count - correction), x.dtype)
    return call.build.op("Div", [total, divisor], x.dtype, dims), call.shapes.reshape(mean, dims)


def _var(call: Call) -> Tensor:
    return _var_mean(call)[0]


def _var_mean(call: Call) -> tuple[Tensor, Tensor]:
    x = call.tensor("self")
    # One of the two says what is taken off the count; Bessel's correction, 1, where neither does.
    correction = float(call.number("correction")) if call.has("correction") else 1.0
    if call.has("unbiased"):
        correction = float(call.number("unbiased"))
    return _variance(call, x, call.axes("dim", x.rank), correction, keep=bool(call.raw("keepdim")))


LOWERINGS: Lowerings = {
    aten.mm.default: _mm,
    aten.addmm.default: _addmm,
    aten.mv.default: _mv,
    aten.bmm.default: _bmm,
    aten.baddbmm.default: _baddbmm,
    aten.sum.default: _reduction("ReduceSum"),
    aten.sum.dim_IntList: _reduction("ReduceSum"),
    aten.mean.default: _reduction("ReduceMean"),
    aten.mean.dim: _reduction("ReduceMean"),
    aten.amax.default: _reduction("ReduceMax"),
    aten.amin.default: _reduction("ReduceMin"),
    aten.max.default: _reduction("ReduceMax"),
    aten.min.default: _reduction("ReduceMin"),
    aten.prod.dim_int: _reduction("ReduceProd"),
    aten.any.default: _truth("ReduceMax"),
    aten.any.dim: _truth("ReduceMax"),
    aten.any.dims: _truth("ReduceMax"),
    aten.all.default: _truth("ReduceMin"),
    aten.all.dim: _truth("ReduceMin"),
    aten.argmax.default: _arg("ArgMax"),
    aten.argmin.default: _arg("ArgMin"),
    aten.max.dim: _extremum("ReduceMax", "ArgMax"),
    aten.min.dim: _extremum("ReduceMin", "ArgMin"),
    aten.cumsum.default: _cumsum,
    aten.var.correction: _var,
    aten.var.dim: _var,
    aten.var_mean.correction: _var_mean,
}
