"""Lowering of operators that work element by element."""

import math

import torch

from fieldtune_offline.lowering.builder import Tensor
from fieldtune_offline.lowering.call import Call, Lower, Lowerings

aten = torch.ops.aten


def _unary(op_type: str) -> Lower:
    return lambda call: call.emit(op_type, call.operand("self", call.dtype))


def _relu(call: Call) -> Tensor:
    x = call.tensor("self")
    return call.emit("Relu", x) if x.dtype.is_floating_point else call.emit("Max", x, call.build.constant(0, x.dtype))


def _rounding(op_type: str) -> Lower:
    def lower(call: Call) -> Tensor:
        x = call.tensor("self")
        return call.emit(op_type, x) if x.dtype.is_floating_point else x  # integers are round, which ONNX leaves out

    return lower


def _isnan(call: Call) -> Tensor:
    x = call.tensor("self")
    return call.emit("IsNaN", x if x.dtype.is_floating_point else call.build.cast(x, torch.float32))


def _rsqrt(call: Call) -> Tensor:
    x = call.operand("self", call.dtype)
    return call.emit("Reciprocal", call.build.op("Sqrt", [x], x.dtype, x.dims))


def _is(argument: object, number: float) -> bool:
    return isinstance(argument, int | float) and not isinstance(argument, bool) and argument == number


def _scaled(call: Call, name: str = "other") -> Tensor:
    # other · alpha, as torch's add and sub have it
    x = call.operand(name, call.dtype)
    alpha = call.raw("alpha") if call.has("alpha") else 1
    if _is(alpha, 1):
        return x
    return call.build.op("Mul", [x, call.operand_of(alpha, call.dtype)], call.dtype, x.dims)


def _add(call: Call) -> Tensor:
    x = call.operand("self", call.dtype)
    if _is(call.raw("other"), 0):
        return x
    if call.dtype == torch.bool:
        return call.emit("Or", x, call.operand("other", call.dtype))
    return call.emit("Add", x, _scaled(call))


def _sub(call: Call) -> Tensor:
    x = call.operand("self", call.dtype)
    return x if _is(call.raw("other"), 0) else call.emit("Sub", x, _scaled(call))


def _rsub(call: Call) -> Tensor:
    return call.emit("Sub", call.operand("other", call.dtype), _scaled(call, "self"))


def _mul(call: Call) -> Tensor:
    x = call.operand("self", call.dtype)
    if _is(call.raw("other"), 1):
        return x
    return call.emit("And" if call.dtype == torch.bool else "Mul", x, call.operand("other", call.dtype))


def _quotient(call: Call) -> Tensor:
    """Multiply, and divide by a root where torch multiplies with one divided by it."""
    for name, other in (("self", "other"), ("other", "self")):
        factor = call.operand(name, call.dtype)
        reciprocal = call.build.producer(factor, "Reciprocal")
        root = None if reciprocal is None else call.build.tensor_of(reciprocal.inputs[0])
        if root is not None and call.build.producer(root, "Sqrt"):
            return call.emit("Div", call.operand(other, call.dtype), root)
    return _mul(call)


def _div(call: Call) -> Tensor:
    x = call.operand("self", call.dtype)
    return x if _is(call.raw("other"), 1) else call.emit("Div", x, call.operand("other", call.dtype))


def _div_mode(call: Call) -> Tensor:
    x, y = call.operand("self", call.dtype), call.operand("other", call.dtype)
    mode = call.raw("rounding_mode")
    if call.dtype.is_floating_point:
        quotient = call.emit("Div", x, y)
        if mode is None:
            return quotient
        if mode == "floor":
            return call.emit("Floor", quotient)
        return call.emit("Mul", call.emit("Sign", quotient), call.emit("Floor", call.emit("Abs", quotient)))
    if mode == "floor":
        x = call.emit("Sub", x, call.emit("Mod", x, y))  # Mod has the divisor's sign, so the rest divides exactly
    return call.emit("Div", x, y)


def _floor_divide(call: Call) -> Tensor:
    x, y = call.operand("self", call.dtype), call.operand("other", call.dtype)
    if call.dtype.is_floating_point:
        return call.emit("Floor", call.emit("Div", x, y))
    return call.emit("Div", call.emit("Sub", x, call.emit("Mod", x, y)), y)


def _remainder(call: Call) -> Tensor:
    x, y = call.operand("self", call.dtype), call.operand("other", call.dtype)
    if call.dtype.is_floating_point:
        return call.emit("Sub", x, call.emit("Mul", call.emit("Floor", call.emit("Div", x, y)), y))
    return call.emit("Mod", x, y)


def _fmod(call: Call) -> Tensor:
    return call.emit("Mod", call.operand("self", call.dtype), call.operand("other", call.dtype), fmod=1)


def _pow(call: Call) -> Tensor:
    exponent = call.raw("exponent")
    x = call.operand("self", call.dtype)
    if _is(exponent, 1):
        return x
    if _is(exponent, 3):
        return call.emit("Mul", call.emit("Mul", x, x), x)
    if _is(exponent, 0.5):
        return call.emit("Sqrt", x)
    return call.emit("Pow", x, call.operand("exponent", call.dtype))


def _comparison(op_type: str, *, negated: bool = False) -> Lower:
    def lower(call: Call) -> Tensor:
        dtype = call.common_dtype("self", "other")
        x, y = call.operand("self", dtype), call.operand("other", dtype)
        if dtype == torch.bool and op_type != "Equal":  # ONNX orders no truth values
            x, y = call.build.cast(x, torch.int32), call.build.cast(y, torch.int32)
        result = call.emit(op_type, x, y)
        return call.emit("Not", result) if negated else result

    return lower


def _logical(op_type: str) -> Lower:
    def lower(call: Call) -> Tensor:
        return call.emit(op_type, call.operand("self", torch.bool), call.operand("other", torch.bool))

    return lower


def _bitwise(logical: str, integer: str) -> Lower:
    def lower(call: Call) -> Tensor:
        op_type = logical if call.dtype == torch.bool else integer
        return call.emit(op_type, call.operand("self", call.dtype), call.operand("other", call.dtype))

    return lower


def _bitwise_not(call: Call) -> Tensor:
    return call.emit("Not" if call.dtype == torch.bool else "BitwiseNot", call.tensor("self"))


def _logical_not(call: Call) -> Tensor:
    return call.emit("Not", call.operand("self", torch.bool))


def _where(call: Call) -> Tensor:
    condition = call.operand("condition", torch.bool)
    # ONNX Runtime chooses between no truth values.
    dtype = torch.int32 if call.dtype == torch.bool else call.dtype
    x, y = (call.operand(name, dtype) for name in ("self", "other"))
    return call.build.cast(call.build.op("Where", [condition, x, y], dtype, call.dims), call.dtype)


def _are_numbers(call: Call, *names: str) -> bool:
    return all(call.has(name) and isinstance(call.raw(name), int | float) for name in names)


def _clamp(call: Call) -> Tensor:
    x = call.operand("self", call.dtype)
    if call.dtype.is_floating_point and _are_numbers(call, "min", "max"):
        return _clipped(call, x, "min", "max")
    if call.has("min"):
        x = call.emit("Max", x, call.operand("min", call.dtype))
    if call.has("max"):
        x = call.emit("Min", x, call.operand("max", call.dtype))
    return x


def _variadic(op_type: str) -> Lower:
    return lambda call: call.emit(op_type, call.operand("self", call.dtype), call.operand("other", call.dtype))


def _gelu(call: Call) -> Tensor:
    """x·Φ(x) by the error function, or its tanh form (Hendrycks and Gimpel 2016); ONNX has no Gelu before opset 20."""
    x = call.operand("self", call.dtype)

    def number(value: float) -> Tensor:
        return call.build.constant(value, call.dtype)

    if call.raw("approximate") == "tanh":
        cube = call.emit("Mul", call.emit("Mul", x, x), x)
        inner = call.emit("Add", x, call.emit("Mul", cube, number(0.044715)))
        gate = call.emit("Tanh", call.emit("Mul", inner, number(math.sqrt(2 / math.pi))))
    else:
        gate = call.emit("Erf", call.emit("Mul", x, number(math.sqrt(0.5))))
    return call.emit("Mul", call.emit("Mul", x, number(0.5)), call.emit("Add", gate, number(1.0)))


def _clipped(call: Call, x: Tensor, low: str, high: str) -> Tensor:
    """One Clip, which compilers know as ReLU6 where the bounds are 0 and 6."""
    return call.emit("Clip", x, call.operand(low, call.dtype), call.operand(high, call.dtype))


def _hardtanh(call: Call) -> Tensor:
    return _clipped(call, call.operand("self", call.dtype), "min_val", "max_val")


def _leaky_relu(call: Call) -> Tensor:
    return call.emit("LeakyRelu", call.operand("self", call.dtype), alpha=float(call.number("negative_slope")))


def _log1p(call: Call) -> Tensor:
    x = call.operand("self", call.dtype)
    return call.emit("Log", call.emit("Add", x, call.build.constant(1.0, call.dtype)))


def _expm1(call: Call) -> Tensor:
    x = call.operand("self", call.dtype)
    return call.emit("Sub", call.emit("Exp", x), call.build.constant(1.0, call.dtype))


def _to(call: Call) -> Tensor:
    return call.build.cast(call.tensor("self"), call.dtype)


def _same(call: Call) -> Tensor:
    return call.tensor("self")


_COMPARISONS: Lowerings = {
    overload: _comparison(op_type, negated=negated)
    for packet, op_type, negated in (
        (aten.eq, "Equal", False),
        (aten.ne, "Equal", True),
        (aten.lt, "Less", False),
        (aten.le, "LessOrEqual", False),
        (aten.gt, "Greater", False),
        (aten.ge, "GreaterOrEqual", False),
    )
    for overload in (packet.Tensor, packet.Scalar)
}

LOWERINGS: Lowerings = {
    **_COMPARISONS,
    aten.abs.default: _unary("Abs"),
    aten.neg.default: _unary("Neg"),
    aten.exp.default: _unary("Exp"),
    aten.log.default: _unary("Log"),
    aten.sqrt.default: _unary("Sqrt"),
    aten.reciprocal.default: _unary("Reciprocal"),
    aten.rsqrt.default: _rsqrt,
    aten.tanh.default: _unary("Tanh"),
    aten.sigmoid.default: _unary("Sigmoid"),
    aten.relu.default: _relu,
    aten.erf.default: _unary("Erf"),
    aten.sin.default: _unary("Sin"),
    aten.cos.default: _unary("Cos"),
    aten.sign.default: _unary("Sign"),
    aten.floor.default: _rounding("Floor"),
    aten.ceil.default: _rounding("Ceil"),
    aten.round.default: _rounding("Round"),
    aten.isnan.default: _isnan,
    aten.log1p.default: _log1p,
    aten.expm1.default: _expm1,
    aten.gelu.default: _gelu,
    aten.hardtanh.default: _hardtanh,
    aten.leaky_relu.default: _leaky_relu,
    aten.add.Tensor: _add,
    aten.add.Scalar: _add,
    aten.sub.Tensor: _sub,
    aten.sub.Scalar: _sub,
    aten.rsub.Scalar: _rsub,
    aten.mul.Tensor: _mul,
    aten.mul.Scalar: _mul,
    aten.div.Tensor: _div,
    aten.div.Scalar: _div,
    aten.div.Tensor_mode: _div_mode,
    aten.div.Scalar_mode: _div_mode,
    aten.floor_divide.default: _floor_divide,
    aten.remainder.Tensor: _remainder,
    aten.remainder.Scalar: _remainder,
    aten.fmod.Tensor: _fmod,
    aten.fmod.Scalar: _fmod,
    aten.pow.Tensor_Scalar: _pow,
    aten.pow.Tensor_Tensor: _pow,
    aten.pow.Scalar: lambda call: call.emit(
        "Pow", call.operand("self", call.dtype), call.operand("exponent", call.dtype)
    ),
    aten.maximum.default: _variadic("Max"),
    aten.minimum.default: _variadic("Min"),
    aten.clamp.default: _clamp,
    aten.clamp.Tensor: _clamp,
    aten.clamp_min.default: _clamp,
    aten.clamp_max.default: _clamp,
    aten.where.self: _where,
    aten.where.ScalarOther: _where,
    aten.where.ScalarSelf: _where,
    aten.where.Scalar: _where,
    aten.logical_and.default: _logical("And"),
    aten.logical_or.default: _logical("Or"),
    aten.logical_xor.default: _logical("Xor"),
    aten.logical_not.default: _logical_not,
    aten.bitwise_and.Tensor: _bitwise("And", "BitwiseAnd"),
    aten.bitwise_and.Scalar: _bitwise("And", "BitwiseAnd"),
    aten.bitwise_or.Tensor: _bitwise("Or", "BitwiseOr"),
    aten.bitwise_or.Scalar: _bitwise("Or", "BitwiseOr"),
    aten.bitwise_xor.Tensor: _bitwise("Xor", "BitwiseXor"),
    aten.bitwise_not.default: _bitwise_not,
    aten._to_copy.default: _to,
    aten.clone.default: _same,
    aten.alias.default: _same,
    aten.detach.default: _same,
    aten.lift_fresh_copy.default: _same,
    aten.contiguous.default: _same,
}

NORMS: Lowerings = {aten.mul.Tensor: _quotient}
"""For graphs that only serve: norms by the root mean square as ONNX Runtime computes them at once.

The runtime that trains with the official artifacts cannot differentiate what it makes of them.
"""
