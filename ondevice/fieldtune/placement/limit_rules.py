"""Rules on the sizes of single operators, with the limits of one DPU; without limits none of them applies.

They are those of a DPU's convolution engine, which computes convolutions of one group, and products as convolutions of
1 by 1. Not modelled: the other engines' limits, on depthwise convolutions (one input channel a kernel; kernels and
strides of 1 to 256 on every target), pools and transposed convolutions; fully connected layers behind an image, which
the compiler can turn into convolutions as large as the image.
"""

import math
from collections.abc import Iterator

from fieldtune.bundle import Node, NodeTable, Shape
from fieldtune.hardware import DpuLimits
from fieldtune.placement.flow import ACTIVATIONS, is_depthwise
from fieldtune.placement.violations import Finding, Subject, called

_SIXTH = 1 / 6
"""The one slope of a DPU's hard sigmoid, relu6(x + 3) / 6, which is also in a hard swish."""


def kernel(subject: Subject) -> Iterator[Finding]:
    """Name convolutions whose kernel is too small or too large in a direction or as a whole."""
    limits = subject.accelerator.limits
    if limits is None:
        return
    most = limits.kernel_area_max or limits.kernel_max**2
    limit = f"kernels of {limits.kernel_min} to {limits.kernel_max}, at most {most} elements"
    for node in _convolutions(subject):
        sizes = _kernel(subject, node)
        if not all(limits.kernel_min <= size <= limits.kernel_max for size in sizes) or math.prod(sizes) > most:
            yield Finding(called(node), limit, _times(sizes))


def stride(subject: Subject) -> Iterator[Finding]:
    """Name convolutions whose stride is too small or too large in a direction."""
    limits = subject.accelerator.limits
    for node in _convolutions(subject):
        sizes = tuple(node.attributes.get("strides", (1, 1)))
        if limits and not all(limits.stride_min <= size <= limits.stride_max for size in sizes):
            yield Finding(called(node), f"strides of {limits.stride_min} to {limits.stride_max}", _times(sizes))


def padding(subject: Subject) -> Iterator[Finding]:
    """Name convolutions that pad by more than their dilated kernel reaches to one side: (kernel - 1) · dilation."""
    if subject.accelerator.limits is None:
        return
    for node in _convolutions(subject):
        pads = tuple(node.attributes.get("pads", (0, 0, 0, 0)))
        sizes = zip(_kernel(subject, node), _dilations(node), strict=True)
        reach = tuple((size - 1) * dilation for size, dilation in sizes)
        if any(pad > most for pad, most in zip(pads, (*reach, *reach), strict=True)):
            actual = f"pads {', '.join(map(str, pads))}"
            yield Finding(called(node), f"pads up to {reach[0]} above and below, {reach[1]} left and right", actual)


def input_channels(subject: Subject) -> Iterator[Finding]:
    """Name convolutions and products that sum over too many channels, times the dilation."""
    limits = subject.accelerator.limits
    for node, _, channels in _engine(subject):
        dilation = max(_dilations(node))
        if limits and dilation * channels > limits.channels_max:
            actual = f"{channels}" if dilation == 1 else f"{channels} with dilation {dilation}"
            yield Finding(called(node), f"at most {limits.channels_max} input channels, times the dilation", actual)


def output_channels(subject: Subject) -> Iterator[Finding]:
    """Name convolutions and products that make too many channels."""
    limits = subject.accelerator.limits
    for node, _, _ in _engine(subject):
        weight = subject.flow.shape(node.inputs[1])
        last = node.op == "MatMul" or (node.op == "Gemm" and not node.attributes.get("transB", 0))
        channels = _integer(weight[-1] if last else weight[0])
        if limits and channels > limits.channels_max:
            yield Finding(called(node), f"at most {limits.channels_max} output channels", f"{channels}")


def weight_bank(subject: Subject) -> Iterator[Finding]:
    """Name convolutions and products of whose weights one round does not fit into the weight memory."""
    limits = subject.accelerator.limits
    for node, (height, width), channels in _engine(subject):
        rows = 0 if limits is None else _rows(limits, height, width, channels)
        if limits and rows > limits.bank_depth:
            actual = f"{rows} rows for kernel {height}x{width}, {channels} input channels"
            yield Finding(called(node), f"at most {limits.bank_depth} rows of a weight bank", actual)


def activation(subject: Subject) -> Iterator[Finding]:
    """Name activations that the convolution engine does not have."""
    limits = subject.accelerator.limits
    for node in subject.operators(*ACTIVATIONS):
        if limits is None:
            return
        actual = activation_name(subject.table, node, limits.leaky_relu_alpha)
        if actual not in limits.activations:
            slope = f"{limits.leaky_relu_alpha:g}"
            known = (f"{name} with alpha {slope}" if name == "leaky_relu" else name for name in limits.activations)
            yield Finding(called(node), ", ".join(known), actual)


def _rows(limits: DpuLimits, height: int, width: int, channels: int) -> int:
    per_bank = math.ceil(limits.output_channel_parallel / limits.bank_num)
    return height * width * math.ceil(channels / limits.bank_width) * per_bank


def _convolutions(subject: Subject) -> Iterator[Node]:
    """Yield what the convolution engine computes as a convolution."""
    return (node for node in subject.operators("Conv") if not is_depthwise(subject.flow, node))


def _engine(subject: Subject) -> Iterator[tuple[Node, tuple[int, int], int]]:
    """Yield what the convolution engine computes, with its kernel and input channels."""
    for node in _convolutions(subject):
        yield node, _kernel(subject, node), _integer(subject.flow.shape(node.inputs[1])[1])
    for node in subject.operators("Gemm", "MatMul"):
        weight: Shape = subject.flow.shape(node.inputs[1])
        yield node, (1, 1), _integer(weight[-1] if node.attributes.get("transB", 0) else weight[-2])


def _kernel(subject: Subject, node: Node) -> tuple[int, int]:
    _, _, height, width = subject.flow.shape(node.inputs[1])
    return _integer(height), _integer(width)


def _dilations(node: Node) -> tuple[int, ...]:
    return tuple(node.attributes.get("dilations", (1, 1)))


def _integer(dim: int | str) -> int:
    assert isinstance(dim, int)  # weights are constants
    return dim


def activation_name(table: NodeTable, node: Node, leaky_relu_alpha: float) -> str:
    """Return which activation a node is, by its name in the limits, or in words if none of them is it."""
    if node.op == "LeakyRelu":
        alpha = node.attributes.get("alpha", 0.01)
        return "leaky_relu" if math.isclose(alpha, leaky_relu_alpha) else f"leaky_relu with alpha {alpha:.7g}"
    if node.op == "HardSigmoid":
        alpha, beta = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
        same = math.isclose(alpha, _SIXTH, rel_tol=1e-4) and math.isclose(beta, 0.5)
        return "hard_sigmoid" if same else f"hard_sigmoid with alpha {alpha:.7g} and beta {beta:.7g}"
    if node.op == "Clip":
        low, high = (_bound(table, node, index) for index in (1, 2))
        names: dict[tuple[object, object], str] = {(0, None): "relu", (0, 6): "relu6"}
        return names.get((low, high), f"Clip from {low} to {high}")
    return {"Relu": "relu", "HardSwish": "hard_swish"}[node.op]


def _bound(table: NodeTable, node: Node, index: int) -> object:
    """Return a bound of a Clip: None where there is none, its name where it is not a constant that is known."""
    name = node.inputs[index] if len(node.inputs) > index else ""
    if not name:
        return None
    value = table.values[name].value
    return name if value is None else value


def _times(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
