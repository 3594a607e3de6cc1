"""Cross-entropy of a frozen head's logits, a chunk of rows at a time: the logits of all rows never exist at once.

The gradient of the hidden states is made with the loss, while a chunk's logits are there, as Liger's fused linear
cross-entropy does (Hsu et al. 2024, §3.2); going backward it is multiplied by what arrives. An operator of torch, which
a trace keeps whole, and of which ``lowerings`` makes a Scan, whose body computes one chunk.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import sympy
import torch
from torch.utils._sympy.functions import FloorDiv

from fieldtune.bundle import IGNORE_INDEX
from fieldtune_offline.lowering.builder import Dim, GraphBuilder, Tensor
from fieldtune_offline.lowering.call import Call, Lowered, Lowerings
from fieldtune_offline.lowering.needed import needed_nodes
from fieldtune_offline.lowering.shapes import Shapes
from fieldtune_offline.precisions.interface import PackedInputs
from fieldtune_offline.precisions.operators import (
    held_back,
    lowered_product,
    marked,
    packed_input_gradient,
    packed_product,
)
from fieldtune_offline.precisions.stored import Stored

CHUNK_ROWS = 64
"""At most so many rows are in a chunk; all chunks have the same number, so that few are filled up."""
STORED = Stored().recipe
"""Of a head that is not packed, whose only part is its weight."""
INT64 = torch.int64
_ROWS = sympy.Symbol("chunk", integer=True, positive=True)


@torch.library.custom_op("fieldtune::chunked_cross_entropy", mutates_args=())
def chunked_cross_entropy(
    hidden: torch.Tensor,
    targets: torch.Tensor,
    parts: Sequence[torch.Tensor],
    bias: torch.Tensor | None,
    recipe: str,
    rows: int,
    chunk: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the summed loss, how many targets were likeliest, and the loss's gradient of the hidden states.

    Args:
        hidden: float32, shape (n, width); n is at least 1.
        targets: int64, shape (n,); ``IGNORE_INDEX`` where a row does not count.
        parts: of the head's matrix (rows, width), as its precision packs it.
        bias: of the head, shape (rows,), or None.
        recipe: of the precision.
        rows: of the matrix: the number of tokens.
        chunk: rows of hidden states that are computed at a time, at most.

    Returns:
        float32: loss of shape (), count of shape (), and gradient (n, width).
    """
    loss, correct = hidden.new_zeros(()), hidden.new_zeros(())
    gradient = torch.empty_like(hidden)
    pieces = (tensor.tensor_split(-(-hidden.shape[0] // chunk)) for tensor in (hidden, targets, gradient))
    for x, wanted, result in zip(*pieces, strict=True):
        logits = packed_product(x, parts, recipe, rows)
        logits = logits if bias is None else logits + bias
        logarithms = logits.log_softmax(-1)
        counted = (wanted != IGNORE_INDEX).to(hidden.dtype)
        index = wanted.clamp(min=0)[:, None]
        loss -= (logarithms.gather(1, index)[:, 0] * counted).sum()
        correct += (logits.argmax(-1) == wanted).sum()
        slopes = logarithms.exp_().scatter_add_(1, index, -torch.ones_like(index, dtype=hidden.dtype))
        result.copy_(packed_input_gradient(slopes * counted[:, None], parts, recipe, hidden.shape[1]))
    return loss, correct, gradient


@chunked_cross_entropy.register_fake
def _(hidden: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return hidden.new_empty(()), hidden.new_empty(()), torch.empty_like(hidden)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    ctx.save_for_backward(output[2])
    ctx.parts = len(inputs[2])


def _backward(ctx: Any, loss: torch.Tensor, *_: torch.Tensor) -> tuple[Any, ...]:
    (gradient,) = ctx.saved_tensors
    return gradient * loss, None, [None] * ctx.parts, None, None, None, None


chunked_cross_entropy.register_autograd(_backward, setup_context=_keep)


def lowerings(*, unpacked: bool) -> Lowerings:
    """Return how the operator is lowered; ``unpacked`` as for products."""
    return {torch.ops.fieldtune.chunked_cross_entropy.default: functools.partial(_lower, unpacked=unpacked)}


def _lower(call: Call, *, unpacked: bool) -> Lowered:
    """Emit a Scan over chunks of equally many rows, so that less than one row a chunk is filled up."""
    build, shapes = call.build, call.shapes
    hidden, targets = call.tensor("hidden"), call.tensor("targets")
    count, width = hidden.dims
    most = int(call.number("chunk"))
    chunks = _quotient(count + (most - 1), most)
    rows = _quotient(count + (chunks - 1), chunks)
    filled = chunks * rows
    zero = build.constant([0], INT64)
    more = build.op("Sub", [shapes.size(filled), shapes.size(count)], INT64, [1])
    pads = build.op("Concat", [zero, zero, more, zero], INT64, [4], axis=0)
    hidden = build.op("Pad", [hidden, pads], hidden.dtype, (filled, width), mode="constant")
    pads, ignored = build.op("Concat", [zero, more], INT64, [2], axis=0), build.constant(IGNORE_INDEX, INT64)
    targets = build.op("Pad", [targets, pads, ignored], INT64, (filled,), mode="constant")
    given = [shapes.reshape(hidden, (chunks, rows, width)), shapes.reshape(targets, (chunks, rows, 1))]
    body, outputs = _chunk(call, unpacked=unpacked)
    made = [(torch.float32, (chunks, rows, tensor.dims[1])) for tensor in outputs.values()]
    results = dict(zip(outputs, build.ops("Scan", given, made, body=body, num_scan_inputs=2), strict=True))
    axes = build.constant([0, 1, 2], INT64)
    sums = [
        build.op("ReduceSum", [results[name], axes], torch.float32, (), keepdims=0) if name in results else None
        for name in ("loss", "correct")
    ]
    if "gradient" not in results:
        return (*sums, None)
    gradient = shapes.reshape(results["gradient"], (filled, width))
    return (*sums, build.op("Slice", [gradient, zero, shapes.size(count), zero], gradient.dtype, (count, width)))


def _chunk(call: Call, *, unpacked: bool) -> tuple[ir.Graph, dict[str, Tensor]]:
    """Return the graph of one chunk and its outputs: loss, correct and gradient, each where it is asked for.

    No row knows of another, so that it computes all rows at once as well.
    """
    name = f"chunk_{len(call.build.nodes)}."
    build = GraphBuilder(call.build, name)
    inside = call.inside(build, Shapes(build, {}))
    tokens, width = int(call.number("rows")), call.tensor("hidden").dims[1]
    assert isinstance(width, int)
    hidden = build.source(f"{name}hidden", torch.float32, (_ROWS, width))
    target = build.source(f"{name}target", INT64, (_ROWS, 1))
    inside.shapes.learn(hidden)
    parts = call.tensors("parts")
    packed = PackedInputs(parts if call.raw("recipe") == STORED else marked(parts), tokens, width)
    # They wait for the hidden states of all chunks, outside of the loop, where they are put in another order once.
    waiting = dataclasses.replace(packed, parts=held_back(call, packed.parts, call.tensor("hidden")))
    column, grid = target.dims, (_ROWS, tokens)

    def op(op_type: str, *inputs: Tensor, dims: Sequence[Dim] = column, **attributes: int) -> Tensor:
        return build.op(op_type, inputs, torch.float32, dims, **attributes)

    logits = lowered_product(inside, hidden, packed, waiting, "lower_product", unpacked=unpacked)
    if call.has("bias"):
        logits = op("Add", logits, call.tensor("bias"), dims=grid)
    ignored = build.op("Equal", [target, build.constant(IGNORE_INDEX, INT64)], torch.bool, column)
    counted = build.cast(build.op("Not", [ignored], torch.bool, column), torch.float32)
    index = build.op("Max", [target, build.constant(0, INT64)], INT64, column)
    outputs: dict[str, Tensor] = {}
    if call.wanted(1):
        likeliest = build.op("ArgMax", [logits], INT64, column, axis=1, keepdims=1)
        outputs["correct"] = build.cast(build.op("Equal", [likeliest, target], torch.bool, column), torch.float32)
    logarithms = op("LogSoftmax", logits, dims=grid, axis=1)
    outputs["loss"] = op("Mul", op("Neg", op("GatherElements", logarithms, index, axis=1)), counted)
    if call.wanted(2):
        probabilities = op("Mul", op("Exp", logarithms, dims=grid), counted, dims=grid)
        less = op("Sub", op("GatherElements", probabilities, index, axis=1), counted)
        slopes = op("ScatterElements", probabilities, index, less, dims=grid, axis=1)
        outputs["gradient"] = lowered_product(
            inside, slopes, packed, waiting, "lower_input_gradient", unpacked=unpacked
        )
    values = [tensor.value for tensor in outputs.values()]
    return ir.Graph([hidden.value, target.value], values, nodes=needed_nodes(build.nodes, values), name=name), outputs


def _quotient(dividend: Dim, divisor: Dim) -> Dim:
    if isinstance(dividend, int) and isinstance(divisor, int):
        return dividend // divisor
    return FloorDiv(dividend, divisor)
