"""Every operator that works element by element, against torch: promotion, broadcasting, signs."""

import pytest
import torch

from fieldtune_offline.lowering import elementwise

aten = torch.ops.aten

UNARY = [
    (aten.abs.default, ("f[n,3]", "i[n]")),
    (aten.neg.default, ("f[n,3]", "i[n]")),
    (aten.exp.default, ("f[n,3]", "i[n]")),
    (aten.log.default, ("p[n,3]",)),
    (aten.sqrt.default, ("p[n,3]",)),
    (aten.reciprocal.default, ("p[n,3]",)),
    (aten.rsqrt.default, ("p[n,3]",)),
    (aten.tanh.default, ("f[n,3]", "i[n]")),
    (aten.sigmoid.default, ("f[n,3]", "b[n]")),
    (aten.relu.default, ("f[n,3]", "i[n]")),
    (aten.erf.default, ("f[n,3]",)),
    (aten.sin.default, ("f[n,3]",)),
    (aten.cos.default, ("f[n,3]",)),
    (aten.sign.default, ("f[n,3]", "i[n]")),
    (aten.floor.default, ("f[n,3]", "i[n]")),
    (aten.ceil.default, ("f[n,3]", "i[n]")),
    (aten.round.default, ("f[n,3]", "i[n]")),
    (aten.isnan.default, ("f[n,3]", "i[n]")),
    (aten.log1p.default, ("p[n,3]",)),
    (aten.expm1.default, ("f[n,3]",)),
    (aten.logical_not.default, ("f[n,3]", "i[n]", "b[n]")),
    (aten.bitwise_not.default, ("i[n]", "b[n]")),
    (aten.clone.default, ("f[n,3]",)),
    (aten.alias.default, ("f[n,3]",)),
    (aten.detach.default, ("f[n,3]",)),
    (aten.lift_fresh_copy.default, ("f[n,3]",)),
    (aten.contiguous.default, ("f[n,3]",)),
]

# Two tensors broadcast against each other, of mixed dtypes where torch promotes.
PAIRS = [("f[n,3]", "f[3]"), ("f[n,1]", "f[1,m]"), ("f[n,3]", "i[n,1]"), ("i[n]", "f[]"), ("i[n]", "i[n]")]
BINARY = [
    *((packet.Tensor, specs) for packet in (aten.add, aten.mul) for specs in (*PAIRS, ("b[n]", "b[n]"))),
    *((packet.Tensor, specs) for packet in (aten.add, aten.mul) for specs in (("b[n]", "i[n]"), ("f[n]", "b[]"))),
    *((aten.sub.Tensor, specs) for specs in PAIRS),
    *((aten.div.Tensor, specs) for specs in (("f[n,3]", "p[3]"), ("i[n]", "p[]"), ("b[n]", "p[n]"))),
    *(
        (packet.Tensor, specs)
        for packet in (aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge)
        for specs in (*PAIRS, ("b[n]", "b[n]"), ("b[n]", "i[n]"), ("i[n]", "b[]"))
    ),
    *((packet.default, specs) for packet in (aten.maximum, aten.minimum) for specs in PAIRS),
    *(
        (packet.default, specs)
        for packet in (aten.logical_and, aten.logical_or, aten.logical_xor)
        for specs in (("b[n]", "b[n]"), ("f[n,3]", "i[3]"))
    ),
    *(
        (packet.Tensor, specs)
        for packet in (aten.bitwise_and, aten.bitwise_or, aten.bitwise_xor)
        for specs in (("b[n]", "b[n]"), ("i[n]", "i[n]"))
    ),
]

# Operators with numbers among their arguments, and what else deserves numbers of its own.
OTHER = [
    (aten.add.Tensor, ("f[n,3]", "i[3]"), lambda op, x, y: op(x, y, alpha=-2)),
    (aten.add.Tensor, ("f[n]",), lambda op, x: op(x, x.shape[0])),
    (aten.add.Scalar, ("i[n]",), lambda op, x: op(x, 2, 3)),
    (aten.add.Scalar, ("i[n]",), lambda op, x: op(x, 0.5)),
    (aten.add.Scalar, ("i[n]",), lambda op, x: op(x, 0)),
    (aten.add.Scalar, ("i[n]",), lambda op, x: op(x, 0.0)),
    (aten.sub.Tensor, ("f[n,3]", "f[3]"), lambda op, x, y: op(x, y, alpha=0.5)),
    (aten.sub.Scalar, ("i[n]",), lambda op, x: op(x, 2, 3)),
    (aten.sub.Scalar, ("i[n]",), lambda op, x: op(x, 0.0)),
    (aten.rsub.Scalar, ("f[n,3]",), lambda op, x: op(x, 1)),
    (aten.rsub.Scalar, ("i[n]",), lambda op, x: op(x, 1, 3)),
    (aten.rsub.Scalar, ("i[n]",), lambda op, x: op(x, 1.5)),
    (aten.mul.Scalar, ("i[n]",), lambda op, x: op(x, 1.0)),
    (aten.mul.Scalar, ("i[n]",), lambda op, x: op(x, 2.5)),
    (aten.mul.Scalar, ("b[n]",), lambda op, x: op(x, 3)),
    (aten.mul.Scalar, ("b[n]",), lambda op, x: op(x, True)),
    (aten.div.Scalar, ("i[n]",), lambda op, x: op(x, 2)),
    (aten.div.Scalar, ("i[n]",), lambda op, x: op(x, 1)),
    *(
        (op, specs, lambda op, x, mode=mode, by=by: op(x, by, rounding_mode=mode))
        for op in (aten.div.Scalar_mode,)
        for specs in (("i[n]",), ("f[n]",))
        for mode, by in (("floor", 3), ("floor", -3), ("trunc", 3), ("trunc", -3), (None, 2), ("floor", 2.5))
    ),
    *(
        (aten.div.Tensor_mode, specs, lambda op, x, y, mode=mode: op(x, y * 2 + 1, rounding_mode=mode))
        for specs in (("i[n,3]", "i[3]"), ("f[n]", "i[n]"))
        for mode in ("floor", "trunc", None)
    ),
    (aten.floor_divide.default, ("i[n,3]", "i[3]"), lambda op, x, y: op(x, y * 2 + 1)),
    (aten.floor_divide.default, ("f[n]", "p[]"), lambda op, x, y: op(x, y)),
    (aten.remainder.Tensor, ("i[n,3]", "i[3]"), lambda op, x, y: op(x, y * 2 + 1)),
    (aten.remainder.Tensor, ("f[n]", "i[n]"), lambda op, x, y: op(x, y * 2 + 1)),
    (aten.remainder.Scalar, ("i[n]",), lambda op, x: op(x, -3)),
    (aten.remainder.Scalar, ("f[n]",), lambda op, x: op(x, -0.7)),
    (aten.fmod.Scalar, ("i[n]",), lambda op, x: op(x, -3)),
    (aten.fmod.Scalar, ("f[n]",), lambda op, x: op(x, 0.7)),
    (aten.fmod.Tensor, ("i[n,3]", "i[3]"), lambda op, x, y: op(x, y * 2 + 1)),
    *(
        (aten.pow.Tensor_Scalar, (spec,), lambda op, x, exponent=exponent: op(x, exponent))
        for spec, exponents in (("p[n,3]", (-1, -0.5, 0, 0.5, 1, 2, 2.5, 3, 4)), ("i[n]", (0, 1, 2, 3, 4, 2.0)))
        for exponent in exponents
    ),
    (aten.pow.Tensor_Tensor, ("p[n,3]", "f[3]"), lambda op, x, y: op(x, y)),
    (aten.pow.Tensor_Tensor, ("i[n]", "j[n]"), lambda op, x, y: op(x, y)),
    (aten.pow.Tensor_Tensor, ("p[n]", "i[n]"), lambda op, x, y: op(x, y)),
    (aten.pow.Scalar, ("f[n,3]",), lambda op, x: op(10000.0, x)),
    (aten.pow.Scalar, ("i[n]",), lambda op, x: op(2.0, x)),
    (aten.pow.Scalar, ("j[n]",), lambda op, x: op(3, x)),
    (aten.clamp.default, ("f[n,3]",), lambda op, x: op(x, -0.5, 0.5)),
    (aten.clamp.default, ("f[n,3]",), lambda op, x: op(x, min=0.0)),
    (aten.clamp.default, ("i[n]",), lambda op, x: op(x, max=2.5)),
    (aten.clamp.default, ("i[n]",), lambda op, x: op(x, 0, x.shape[0] - 1)),
    (aten.clamp.default, ("i[n]",), lambda op, x: op(x, 3, -3)),
    (aten.clamp.Tensor, ("f[3]", "f[n,1]", "f[n,3]"), lambda op, x, low, high: op(x, low, high)),
    (aten.clamp.Tensor, ("f[n,3]", "i[3]"), lambda op, x, high: op(x, None, high)),
    (aten.clamp_min.default, ("f[n,3]",), lambda op, x: op(x, 0.1)),
    (aten.clamp_max.default, ("i[n]",), lambda op, x: op(x, 1)),
    (aten.where.self, ("b[n,1]", "f[n,3]", "i[3]"), lambda op, c, x, y: op(c, x, y)),
    (aten.where.self, ("b[n]", "b[n]", "b[]"), lambda op, c, x, y: op(c, x, y)),
    (aten.where.self, ("b[n]", "i[n]", "i[]"), lambda op, c, x, y: op(c, x, y)),
    (aten.where.ScalarOther, ("b[n]", "i[n]"), lambda op, c, x: op(c, x, -0.5)),
    (aten.where.ScalarSelf, ("b[n,3]", "f[n,3]"), lambda op, c, y: op(c, float("-inf"), y)),
    (aten.where.Scalar, ("b[n]",), lambda op, c: op(c, 0.0, torch.finfo(torch.float32).min)),
    (aten.where.Scalar, ("b[n]",), lambda op, c: op(c, 1, 0)),
    *((aten.gelu.default, ("f[n,3]",), lambda op, x, form=form: op(x, approximate=form)) for form in ("none", "tanh")),
    (aten.hardtanh.default, ("f[n,3]",), lambda op, x: op(x)),
    (aten.hardtanh.default, ("f[n,3]",), lambda op, x: op(x, 0, 0.6)),
    (aten.leaky_relu.default, ("f[n,3]",), lambda op, x: op(x)),
    (aten.leaky_relu.default, ("f[n,3]",), lambda op, x: op(x, 0.3)),
    (aten.bitwise_and.Scalar, ("i[n]",), lambda op, x: op(x, 6)),
    (aten.bitwise_or.Scalar, ("i[n]",), lambda op, x: op(x, 6)),
    *(
        (packet.Scalar, (spec,), lambda op, x, by=by: op(x, by))
        for packet in (aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge)
        for spec, by in (("f[n]", 0), ("i[n]", 0.5), ("b[n]", True), ("b[n]", 0), ("i[n]", 2))
    ),
    (aten.lt.Scalar, ("i[n]",), lambda op, x: op(x, x.shape[0])),
    *(
        (aten._to_copy.default, (spec,), lambda op, x, dtype=dtype: op(x, dtype=dtype))
        for spec in ("f[n,3]", "i[n]", "b[n]")
        for dtype in (torch.float32, torch.float64, torch.int64, torch.int32, torch.bool)
    ),
]

CASES = [
    *((op, (spec,), lambda op, x: op(x)) for op, specs in UNARY for spec in specs),
    *((op, specs, lambda op, x, y: op(x, y)) for op, specs in BINARY),
    *OTHER,
]


@pytest.mark.parametrize("op", elementwise.LOWERINGS, ids=str)
def test_the_graph_computes_what_torch_computes(check_cases, op):
    cases = [case for case in CASES if case[0] is op]
    assert cases
    check_cases(cases)


def test_all_of_them_in_core_operators(check_cases):
    check_cases(CASES, core=True)


WEIGHT = torch.linspace(0.5, 1.5, 8)


def root_mean_square_norm(x):
    return WEIGHT * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def test_onnx_runtime_computes_a_norm_of_what_serves_at_once(lowered, tmp_path):
    import onnx
    import onnxruntime

    model = lowered(root_mean_square_norm, ("f[n,m,8]",), elementwise.NORMS)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx")
    assert [node.op_type for node in optimized.graph.node] == ["SimplifiedLayerNormalization"]
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), root_mean_square_norm(x))


def test_a_norm_of_what_trains_is_computed_as_torch_computes_it(lowered):
    made = [node.op_type for node in lowered(root_mean_square_norm, ("f[n,m,8]",)).graph.node]
    assert made == ["Pow", "ReduceMean", "Add", "Sqrt", "Reciprocal", "Mul", "Mul"]
