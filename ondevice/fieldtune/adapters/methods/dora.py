"""DoRA on the device (Liu et al. 2024): LoRA's W + s · B A with a length of its own for what each output is made of.

eval.onnx and infer.onnx take m / ‖W + s · B A‖ in place of the magnitude m. It depends on the adapter alone, so that it
is computed once, when the adapter is loaded: within the graph it would cost rank times the layer for every token.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fieldtune.adapters.adapter import PREFIX, Adapter, adapted_modules
from fieldtune.adapters.methods.lora import Lora
from fieldtune.adapters.tensors import each_tensor
from fieldtune.bundle import Bundle, FloatArray
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
        scaled = [(p, p.weight) for p in bundle.manifest.layout.parameters if p.weight is not None]
        bases = each_tensor(bundle.weights_path, [weight.name for _, weight in scaled])
        for (p, weight), base in zip(scaled, bases, strict=True):
            axis = next((number for number, name in enumerate(weight.axes) if name in _OUTPUTS), None)
            if axis is None or len(weight.axes) != base.ndim:
                raise InvalidBundle(
                    f"{bundle.root}: no axis of {weight.name} ({', '.join(weight.axes)}) is that of its outputs"
                )
            lengths = _lengths(adapter, p.module, np.moveaxis(base, axis, 0), scale[p.module])
            # An output without weights, such as a padding token's logit, stays 0.
            factors = np.divide(inputs[p.key].reshape(-1), lengths, out=np.zeros_like(lengths), where=lengths > 0)
            inputs[p.key] = factors.reshape(p.shape)
        return inputs


METHOD = Dora()


def _lengths(adapter: Adapter, module: str, base: FloatArray, scale: float) -> FloatArray:
    """Return ‖W + s · B A‖ for each output: ‖W‖² + 2 s · (W Aᵀ) ∘ B + s² · (B A Aᵀ) ∘ B, summed over the rank.

    Expanded like this, nothing as large as W is made. The first axis of ``base`` is that of the outputs.
    """
    stored = adapter.tensors.tensors
    first, second = next((stored[f"{PREFIX}{module}.{a}"], stored[f"{PREFIX}{module}.{b}"]) for a, b in _PAIRS
                         if f"{PREFIX}{module}.{a}" in stored)  # fmt: skip
    a = first.float32().reshape(first.shape[0], -1)
    b = second.float32().reshape(second.shape[0], -1)
    rows = base.reshape(len(base), -1)
    squares = np.einsum("oi,oi->o", rows, rows, dtype=np.float64)
    crossed = ((rows @ a.T) * b).sum(1, dtype=np.float64)
    added = ((b @ (a @ a.T)) * b).sum(1, dtype=np.float64)
    lengths: FloatArray = np.sqrt(np.maximum(squares + 2 * scale * crossed + scale**2 * added, 0)).astype(np.float32)
    return lengths
