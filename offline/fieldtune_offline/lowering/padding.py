"""Zero padding that can be differentiated with sizes that vary.

The backward pass of ``aten.constant_pad_nd`` is a padding by negative numbers, and torch 2.13 fixes every symbolic size
of a tensor that is padded so. Before a program is differentiated, its zero paddings become an operator of our own, the
backward pass of which is a slice.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.library import custom_op


@custom_op("fieldtune::zero_pad", mutates_args=())
def _zero_pad(x: torch.Tensor, pad: Sequence[int]) -> torch.Tensor:
    """Return x with zeros around it; ``pad`` lists before and after of the last axis, then of the one before it."""
    return torch.nn.functional.pad(x, list(pad))


@_zero_pad.register_fake
def _(x: torch.Tensor, pad: Sequence[int]) -> torch.Tensor:
    shape = list(x.shape)
    for place, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        shape[-1 - place] = shape[-1 - place] + before + after
    return x.new_empty(shape)


def _remember(ctx: Any, inputs: tuple[torch.Tensor, Sequence[int]], output: torch.Tensor) -> None:  # noqa: ARG001 (torch names it)
    x, ctx.pad = inputs
    ctx.shape = x.shape


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
    for place, before in enumerate(ctx.pad[::2]):
        gradient = gradient.narrow(-1 - place, before, ctx.shape[-1 - place])
    return gradient, None


_zero_pad.register_autograd(_backward, setup_context=_remember)


def differentiable_padding(program: ExportedProgram) -> ExportedProgram:
    """Replace the program's zero paddings in place, and return it."""
    for node in program.graph.nodes:
        pad = _zeros(node)
        if pad is not None:
            node.target, node.args, node.kwargs = torch.ops.fieldtune.zero_pad.default, (node.args[0], pad), {}
    program.graph_module.recompile()
    return program


def _zeros(node: fx.Node) -> list[int] | None:
    """Return how much a node pads, if it pads with zeros, outwards, by numbers."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    named = dict(zip((argument.name for argument in node.target._schema.arguments), node.args, strict=False))
    named |= node.kwargs
    if node.target not in _PADS or named.get("mode", "constant") != "constant" or named.get("value"):
        return None
    pad = named["pad"]
    assert isinstance(pad, Sequence)
    sizes = [size for size in pad if isinstance(size, int) and size >= 0]
    return sizes if len(sizes) == len(pad) else None


_PADS = (torch.ops.aten.pad.default, torch.ops.aten.constant_pad_nd.default)
