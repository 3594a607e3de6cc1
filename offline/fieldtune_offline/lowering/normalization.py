"""Lowering of softmax and of layer normalization."""

import torch

from fieldtune_offline.lowering.builder import Tensor
from fieldtune_offline.lowering.call import Call, Lower, Lowerings

aten = torch.ops.aten


def _softmax(op_type: str) -> Lower:
    def lower(call: Call) -> Tensor:
        x = call.operand("self", call.dtype)
        return call.emit(op_type, x, axis=call.axis("dim", x.rank))

    return lower


def _layer_norm(call: Call) -> tuple[Tensor, ...]:
    """LayerNormalization with all three outputs: the backward pass reads mean and 1/σ."""
    x = call.tensor("input")
    shape = [int(size) for size in call.raw("normalized_shape")]
    weight = call.tensor("weight") if call.has("weight") else call.shapes.filled(1, shape, x.dtype)
    inputs = [x, weight, *([call.tensor("bias")] if call.has("bias") else [])]
    outputs = [(result.dtype, call.shapes.dims(result.shape)) for result in call.results]
    return call.build.ops(
        "LayerNormalization", inputs, outputs, axis=x.rank - len(shape), epsilon=float(call.number("eps"))
    )


LOWERINGS: Lowerings = {
    aten._softmax.default: _softmax("Softmax"),
    aten._log_softmax.default: _softmax("LogSoftmax"),
    aten.native_layer_norm.default: _layer_norm,
}
