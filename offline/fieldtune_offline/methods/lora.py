"""LoRA on the dev box (Hu et al. 2021): low-rank pairs, whose alpha / rank eval.onnx and infer.onnx leave to be fed."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from fieldtune_offline.methods.interface import Facts, Method
from fieldtune_offline.passes.fold_lora import fold_lora
from fieldtune_offline.passes.merged_tensor import Fold
from fieldtune_offline.spec import MethodSpec

RANK, ALPHA = 8, 16
"""Of a new adapter, where nobody says."""
_INITIALIZATIONS = (True, False, "gaussian", "orthogonal")


class Lora(Method):
    """Low-rank pairs beside linear layers, embeddings and convolutions."""

    name = "lora"
    supported = "linear layers, embeddings and convolutions in one group"
    settings = frozenset({"rank", "alpha", "rslora", "bias"})
    biases = ("none", "all", "lora_only")
    honoured = frozenset({
        "r", "lora_alpha", "fan_in_fan_out", "bias", "use_rslora", "layers_to_transform", "layers_pattern",
        "rank_pattern", "alpha_pattern", "lora_bias",
        "megatron_core", "qalora_group_size",  # without the field that turns them on they say nothing
    })  # fmt: skip
    reasons: ClassVar[Mapping[str, str]] = {
        "lora_dropout": "dropout would make the graph random; set it to 0",
        "init_lora_weights": "it rewrites the base's weights, which a bundle shares between adapters",
    }

    @property
    def fold(self) -> Fold | None:
        """W + (alpha / rank) · B A."""
        return fold_lora

    def config_class(self) -> Any:
        """Return LoraConfig."""
        from peft import LoraConfig

        return LoraConfig

    def fields(self, spec: MethodSpec) -> dict[str, Any]:
        """Return rank, alpha, their quotient's form, and which biases are trained."""
        return {
            "r": RANK if spec.rank is None else spec.rank,
            "lora_alpha": ALPHA if spec.alpha is None else spec.alpha,
            "use_rslora": spec.rslora,
            "bias": spec.bias or self.biases[0],
        }

    def honours(self, field: str, value: object) -> bool:
        """Whether an initialization leaves the base's weights alone."""
        return field == "init_lora_weights" and value in _INITIALIZATIONS

    def layer_class(self) -> type[Any]:
        """Return LoraLayer."""
        from peft.tuners.lora import LoraLayer

        return LoraLayer

    def layer_fault(self, layer: Any) -> str:
        """Refuse what is no linear layer, no embedding and no convolution in one group."""
        from peft.tuners.lora import Conv2d, Embedding, Linear

        if type(layer) not in (Linear, Embedding, Conv2d):
            return type(layer).__name__
        # A depthwise A would be as large as the kernel that it adapts, and its gradient has no ONNX operator.
        groups = layer.get_base_layer().groups if isinstance(layer, Conv2d) else 1
        return "" if groups == 1 else f"a convolution in {groups} groups"

    def facts(self, layer: Any, part: str, tensor: torch.Tensor) -> Facts:
        """Return the facts of an A, a B or the bias after B."""
        del layer
        if part == "lora_B.bias":
            return Facts(axes=("out_features",), decay=False, scaled=True, optional=True)
        return Facts(
            axes=_AXES[part, tensor.ndim],
            transposed=tensor.ndim == 2,
            scaled=part in ("lora_B.weight", "lora_embedding_B"),
        )

    @contextlib.contextmanager
    def serving(self, model: nn.Module) -> Iterator[None]:
        """Take alpha / rank out of the graph: whoever feeds B multiplies it in."""
        layers = self.layers(model).values()
        before = [dict(layer.scaling) for layer in layers]
        try:
            for layer in layers:
                layer.scaling = dict.fromkeys(layer.scaling, 1.0)
            yield
        finally:
            for layer, scaling in zip(layers, before, strict=True):
                layer.scaling = scaling


_AXES = {
    ("lora_A.weight", 2): ("rank", "in_features"),
    ("lora_B.weight", 2): ("out_features", "rank"),
    ("lora_A.weight", 4): ("rank", "in_channels", "height", "width"),
    ("lora_B.weight", 4): ("out_channels", "rank", "height", "width"),
    ("lora_embedding_A", 2): ("rank", "num_embeddings"),
    ("lora_embedding_B", 2): ("embedding_dim", "rank"),
}
"""Part and number of axes → their names."""

METHOD = Lora()
