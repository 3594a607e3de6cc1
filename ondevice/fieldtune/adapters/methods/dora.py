"""DoRA on the device (Liu et al. 2024): LoRA's W + s · B A with a length of its own for what each output is made of.

eval.onnx and infer.onnx take m / ‖W + s · B A‖ in place of the magnitude m. It depends on the adapter alone, so that it
is computed once, when the adapter is loaded: within the graph it would cost rank times the layer for every token.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fieldtune.adapters.adapter import PREFIX, Adapter, adapted_modules
from fieldtune.adapters.base_weights import weight_blocks
from fieldtune.adapters.methods.lora import Lora
from fieldtune.bundle import BaseWeight, Bundle, FloatArray
from fieldtune.errors import InvalidBundle

_PAIRS = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))
_OUTPUTS = ("out_features", "out_channels", "embedding_dim")
"""The names of the axis that has a length for each of its places."""


class Dora(Lora):
    """Low-rank pairs, and a magnitude for each output of a layer."""

    name = "dora"
    title = "DoRA"

    def owns(self, config: Mapping[str, Any]) -> bool:
        """Whether it is a LoraConfig that asks for magnitudes."""
        return super().owns(config) and bool(config.get("use_dora"))

    def feeds(self, adapter: Adapter, bundle: Bundle, *, least_rank: int = 0) -> dict[str, FloatArray]:
        """Return what LoRA feeds, and m / ‖W + s · B A‖ under the magnitude's key; each W is read from the bundle."""
        inputs = super().feeds(adapter, bundle, least_rank=least_rank)
        scale = self.scales(adapter, adapted_modules(bundle.manifest))
        for p in bundle.manifest.layout.parameters:
            weight = p.weight
            if weight is None:
                continue
            axis = next((number for number, name in enumerate(weight.axes) if name in _OUTPUTS), None)
            if axis is None:
                raise _no_outputs(bundle, weight)
            pair = _pair(adapter, p.module)
            totals = _Totals(pair, outputs_first=axis == 0)
            for start, rows in weight_blocks(bundle.weights_path, weight):
                if axis not in (0, rows.ndim - 1) or len(weight.axes) != rows.ndim:
                    raise _no_outputs(bundle, weight)
                totals.add(start, rows)
            lengths = totals.lengths(scale[p.module])
            # An output without weights, such as a padding token's logit, stays 0.
            factors = np.divide(inputs[p.key].reshape(-1), lengths, out=np.zeros_like(lengths), where=lengths > 0)
            inputs[p.key] = factors.reshape(p.shape)
        return inputs


METHOD = Dora()


def _no_outputs(bundle: Bundle, weight: BaseWeight) -> InvalidBundle:
    return InvalidBundle(f"{bundle.root}: no axis of {weight.name} ({', '.join(weight.axes)}) is that of its outputs")


def _pair(adapter: Adapter, module: str) -> tuple[FloatArray, FloatArray]:
    """Return A (rank, inputs) and B (outputs, rank) of a module."""
    stored = adapter.tensors.tensors
    keys = next((f"{PREFIX}{module}.{a}", f"{PREFIX}{module}.{b}") for a, b in _PAIRS
                if f"{PREFIX}{module}.{a}" in stored)  # fmt: skip
    first, second = (stored[key] for key in keys)
    return first.float32().reshape(first.shape[0], -1), second.float32().reshape(second.shape[0], -1)


class _Totals:
    """What ‖W + s · B A‖ is made of for each output, added up over some rows of W at a time.

    ‖W‖² + 2 s · (W Aᵀ) ∘ B + s² · (B A Aᵀ) ∘ B, summed over the rank: nothing as large as W is made.

    Args:
        pair: A (rank, inputs) and B (outputs, rank).
        outputs_first: whether a row of W belongs to an output, not to an input.
    """

    def __init__(self, pair: tuple[FloatArray, FloatArray], *, outputs_first: bool) -> None:
        self._a, self._b = pair
        self._outputs_first = outputs_first
        self._squares = np.zeros(len(self._b), np.float64)
        self._crossed = np.zeros(len(self._b), np.float64)

    def add(self, start: int, rows: FloatArray) -> None:
        """Add rows of W, of which the first has the number ``start``."""
        own = slice(start, start + len(rows))
        if self._outputs_first:
            of_outputs, outputs, a = rows.reshape(len(rows), -1), own, self._a
        else:
            of_outputs, outputs, a = rows.T, slice(None), self._a[:, own]
        self._squares[outputs] += np.einsum("oi,oi->o", of_outputs, of_outputs, dtype=np.float64)
        self._crossed[outputs] += ((of_outputs @ a.T) * self._b[outputs]).sum(1, dtype=np.float64)

    def lengths(self, scale: float) -> FloatArray:
        """Return the norms, float32 (outputs,)."""
        a, b = self._a, self._b
        added = ((b @ (a @ a.T)) * b).sum(1, dtype=np.float64)
        squares = self._squares + 2 * scale * self._crossed + scale**2 * added
        lengths: FloatArray = np.sqrt(np.maximum(squares, 0)).astype(np.float32)
        return lengths
