"""Lowering of convolutions, pooling and batch normalization over images, forward and backward.

Every attribute of a Conv is written out, also where it is the operator's default: AMD's compiler ends the process on a
Conv that leaves one out.
"""

from collections.abc import Sequence

import torch

from fieldtune.errors import UnsupportedModel
from fieldtune_offline.lowering.builder import Dim, Tensor
from fieldtune_offline.lowering.call import Call, Lowered, Lowerings
from fieldtune_offline.lowering.shapes import size_of

aten = torch.ops.aten
INT64 = torch.int64
_BATCH_AND_SPACE = (0, 2, 3)


def _pair(call: Call, name: str, default: Sequence[int] = ()) -> list[int]:
    """Return a list argument with one number an axis; torch repeats a single one."""
    values = [int(value) for value in (call.raw(name) or default)]
    return values * 2 if len(values) == 1 else values


def _check_images(call: Call, x: Tensor) -> None:
    if x.rank != 4:
        raise UnsupportedModel(f"{call.node.target} of a tensor with {x.rank} axes; only images (4 axes) are supported")


def _space(call: Call, x: Tensor) -> list[int]:
    """Return height and width, which must be known: how much a backward pass pads depends on them."""
    sizes = [dim for dim in x.dims[2:] if isinstance(dim, int)]
    if len(sizes) != 2:
        raise UnsupportedModel(f"{call.node.target}: height and width must be static to be differentiated")
    return sizes


def _convolution(call: Call) -> Tensor:
    x, weight = call.tensor("input"), call.tensor("weight")
    _check_images(call, x)
    bias = [call.tensor("bias")] if call.has("bias") else []
    pads = _pair(call, "padding") * 2
    attributes = {
        "kernel_shape": [int(size) for size in weight.dims[2:]],
        "strides": _pair(call, "stride"),
        "dilations": _pair(call, "dilation"),
        "group": int(call.number("groups")),
    }
    if call.raw("transposed"):
        attributes["output_padding"] = _pair(call, "output_padding")
        return call.emit("ConvTranspose", x, weight, *bias, pads=pads, **attributes)
    x, before, after = _unpadded(call, x)
    pads = [pad + more for pad, more in zip(pads, (*before, *after), strict=True)]
    return call.emit("Conv", x, weight, *bias, pads=pads, **attributes)


def _unpadded(call: Call, x: Tensor) -> tuple[Tensor, list[int], list[int]]:
    """Return what zero padding was put around, and how much: Conv pads by itself, on each side as it is told."""
    none = [0, 0]
    node = call.build.producer(x, "Pad")
    if node is None:
        return x, none, none
    inputs = [call.build.tensor_of(value) for value in node.inputs if value is not None]
    pads, value = (call.build.constant_of(tensor) for tensor in inputs[1:3])
    if pads is None or value is None or value.any():
        return x, none, none
    sizes = [int(pad) for pad in pads]
    if len(sizes) != 8 or any(sizes[axis] for axis in (0, 1, 4, 5)) or min(sizes) < 0:
        return x, none, none
    return inputs[0], sizes[2:4], sizes[6:8]


def _convolution_backward(call: Call) -> Lowered:
    """Return the gradients of input, weight and bias, those that are asked for."""
    wanted = [bool(flag) for flag in call.raw("output_mask")]
    gradient, x, weight = (call.tensor(name) for name in ("grad_output", "input", "weight"))
    _check_images(call, x)
    if call.raw("transposed"):
        raise UnsupportedModel("the gradient of a transposed convolution has no ONNX lowering here")
    return (
        _input_gradient(call, gradient, x, weight) if wanted[0] else None,
        _weight_gradient(call, gradient, x, weight) if wanted[1] else None,
        _bias_gradient(call, gradient) if wanted[2] else None,
    )


def _input_gradient(call: Call, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of a convolution's input: the transposed convolution of the output's."""
    kernel = [int(size) for size in weight.dims[2:]]
    strides, pads, dilations = (_pair(call, name) for name in ("stride", "padding", "dilation"))
    # Where the stride does not divide the size, the last rows and columns were in no window.
    rest = [
        size - ((out - 1) * stride - 2 * pad + dilation * (k - 1) + 1)
        for size, out, stride, pad, dilation, k in zip(
            _space(call, x), _space(call, gradient), strides, pads, dilations, kernel, strict=True
        )
    ]
    return call.build.op(
        "ConvTranspose",
        [gradient, weight],
        x.dtype,
        x.dims,
        kernel_shape=kernel,
        strides=strides,
        pads=pads * 2,
        dilations=dilations,
        group=int(call.number("groups")),
        output_padding=rest,
    )


def _weight_gradient(call: Call, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    if int(call.number("groups")) != 1:
        raise UnsupportedModel("the gradient of a grouped (depthwise) convolution's weight has no ONNX lowering here")
    kernel = [int(size) for size in weight.dims[2:]]
    strides, pads, dilations = (_pair(call, name) for name in ("stride", "padding", "dilation"))
    build = call.build
    outer, inner = (build.transpose(tensor, [1, 0, 2, 3]) for tensor in (gradient, x))
    if kernel == [1, 1] and strides == [1, 1] and pads == [0, 0]:
        flat = [_rows(call, tensor) for tensor in (outer, inner)]
        product = build.op("Gemm", flat, weight.dtype, weight.dims[:2], transA=0, transB=1)
        return call.shapes.reshape(product, weight.dims)
    # Channels take the batch's place, and the windows' steps the dilation's.
    sizes = [
        (size + 2 * pad - stride * (out - 1) - 1) // dilation + 1
        for size, out, stride, pad, dilation in zip(
            _space(call, x), _space(call, gradient), strides, pads, dilations, strict=True
        )
    ]
    result = build.op(
        "Conv",
        [inner, outer],
        weight.dtype,
        [weight.dims[1], weight.dims[0], *sizes],
        kernel_shape=_space(call, gradient),
        strides=dilations,
        pads=pads * 2,
        dilations=strides,
        group=1,
    )
    if sizes != kernel:
        bounds = [build.constant(values, INT64) for values in ([0, 0], kernel, [2, 3])]
        result = build.op("Slice", [result, *bounds], weight.dtype, [weight.dims[1], weight.dims[0], *kernel])
    return build.transpose(result, [1, 0, 2, 3])


def _rows(call: Call, x: Tensor) -> Tensor:
    return call.shapes.reshape(x, [x.dims[0], size_of(x.dims[1:])])


def _bias_gradient(call: Call, gradient: Tensor) -> Tensor:
    axes = call.build.constant(list(_BATCH_AND_SPACE), INT64)
    return call.build.op("ReduceSum", [gradient, axes], gradient.dtype, [gradient.dims[1]], keepdims=0)


def _batch_norm(call: Call) -> Lowered:
    """BatchNormalization with the checkpoint's statistics, which training leaves as they are."""
    x = call.tensor("input")
    channels = [int(x.dims[1])]
    scale = call.tensor("weight") if call.has("weight") else call.shapes.filled(1, channels, x.dtype)
    shift = call.tensor("bias") if call.has("bias") else call.shapes.filled(0, channels, x.dtype)
    inputs = [x, scale, shift, call.tensor("running_mean"), call.tensor("running_var")]
    result = call.build.op("BatchNormalization", inputs, x.dtype, x.dims, epsilon=float(call.number("eps")))
    return result, None, None


def _window(call: Call) -> dict[str, list[int] | int]:
    kernel = _pair(call, "kernel_size")
    return {
        "kernel_shape": kernel,
        "strides": _pair(call, "stride", kernel),
        "pads": _pair(call, "padding") * 2,
        "ceil_mode": int(bool(call.raw("ceil_mode"))),
    }


def _max_pool(call: Call) -> Lowered:
    x = call.tensor("self")
    _check_images(call, x)
    outputs: list[tuple[torch.dtype, tuple[Dim, ...]]] = [(x.dtype, call.dims), (INT64, call.dims)]
    return call.build.ops("MaxPool", [x], outputs, dilations=_pair(call, "dilation"), **_window(call))


def _max_pool_backward(call: Call) -> Tensor:
    """Send each gradient to the place that its maximum came from; windows may overlap there."""
    gradient, x, places = (call.tensor(name) for name in ("grad_output", "self", "indices"))
    # ONNX counts the places through the whole tensor.
    count = size_of(x.dims)
    zeros = call.shapes.filled(0, [count], x.dtype)
    flat = [call.shapes.reshape(tensor, [size_of(tensor.dims)]) for tensor in (places, gradient)]
    summed = call.build.op("ScatterElements", [zeros, *flat], x.dtype, [count], axis=0, reduction="add")
    return call.shapes.reshape(summed, x.dims)


def _avg_pool(call: Call) -> Tensor:
    x = call.tensor("self")
    _check_images(call, x)
    if call.has("divisor_override"):
        raise UnsupportedModel("avg_pool2d with divisor_override has no ONNX lowering here")
    return call.emit("AveragePool", x, count_include_pad=int(bool(call.raw("count_include_pad"))), **_window(call))


LOWERINGS: Lowerings = {
    aten.convolution.default: _convolution,
    aten.convolution_backward.default: _convolution_backward,
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.max_pool2d_with_indices_backward.default: _max_pool_backward,
    aten.avg_pool2d.default: _avg_pool,
}
