"""Flatten parameters: one input ``theta`` for the trainable tensors, one output ``grad_sum`` for their gradients.

1. Each trainable tensor becomes a piece of a single Split of theta, in the layout's order, reshaped.
2. The gradients are reshaped to vectors and joined in the same order.
3. A trainable tensor that the loss does not depend on gets a gradient of zeros.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch

from fieldtune.bundle import Layout
from fieldtune_offline.lowering.builder import GraphBuilder, Tensor

INT64 = torch.int64


def split_theta(build: GraphBuilder, layout: Layout) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the input theta (float32, shape (size,)) and, by PEFT key, the tensors cut from it."""
    theta = build.source("theta", torch.float32, [layout.size])
    sizes = [parameter.size for parameter in layout.parameters]
    lengths = build.constant(np.array(sizes, np.int64), INT64)
    pieces = build.ops("Split", [theta, lengths], [(torch.float32, (size,)) for size in sizes], axis=0)
    tensors: dict[str, Tensor] = {}
    for parameter, piece in zip(layout.parameters, pieces, strict=True):
        shape = build.constant(np.array(parameter.shape, np.int64), INT64)
        tensors[parameter.key] = build.op("Reshape", [piece, shape], torch.float32, parameter.shape)
    return theta, tensors


def join_gradients(build: GraphBuilder, layout: Layout, gradients: Mapping[str, Tensor]) -> Tensor:
    """Return ``grad_sum`` (float32, shape (size,)) from the gradients by PEFT key."""
    flat: list[Tensor] = []
    for parameter in layout.parameters:
        if parameter.key not in gradients:
            flat.append(build.constant(np.zeros(parameter.size, np.float32), torch.float32))
            continue
        gradient = gradients[parameter.key]
        assert math.prod(int(size) for size in gradient.dims) == parameter.size, parameter.key
        shape = build.constant(np.array([parameter.size], np.int64), INT64)
        flat.append(build.op("Reshape", [gradient, shape], torch.float32, [parameter.size]))
    return flat[0] if len(flat) == 1 else build.op("Concat", flat, torch.float32, [layout.size], axis=0)
