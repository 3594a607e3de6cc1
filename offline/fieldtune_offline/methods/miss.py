"""MiSS on the dev box (Kang and Yin 2024): W x + b and sums of every r-th input times a matrix of r rows.

It is trained in PEFT's form and served as a low-rank pair, so that the rank is free there, too: A is 1 where an input
counts for a sum, else 0, and the device feeds it.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from fieldtune.adapters.methods.miss import PATTERN
from fieldtune_offline.adapted import Adapted
from fieldtune_offline.methods.interface import Facts, Method, ServingInput, ranked_input
from fieldtune_offline.passes.fold_miss import fold_miss
from fieldtune_offline.passes.merged_tensor import Fold
from fieldtune_offline.spec import MethodSpec

RANK = 8
"""Of a new adapter, where nobody says."""
_BLOCK = "miss_block"


class Miss(Method):
    """A matrix of r rows for each linear layer."""

    name = "miss"
    supported = "linear layers"
    settings = frozenset({"rank", "bias"})
    biases = ("none", "all", "MiSS_only")
    honoured = frozenset({"r", "bias", "layers_to_transform", "layers_pattern"})
    reasons: ClassVar[Mapping[str, str]] = {
        "miss_dropout": "dropout would make the graph random; set it to 0",
        "init_weights": "the update depends on the base weight then, or is stored once for several outputs",
        "mini_r": "of init_weights 'mini', which is not supported",
    }
    official = False

    @property
    def fold(self) -> Fold | None:
        """W and its matrix, spread over the inputs."""
        return fold_miss

    def config_class(self) -> Any:
        """Return MissConfig."""
        from peft import MissConfig

        return MissConfig

    def fields(self, spec: MethodSpec) -> dict[str, Any]:
        """Return the rank, and which biases are trained."""
        return {"r": RANK if spec.rank is None else spec.rank, "bias": spec.bias or self.biases[0]}

    def layer_class(self) -> type[Any]:
        """Return MissLayer."""
        from peft.tuners.miss.layer import MissLayer

        return MissLayer

    def layer_fault(self, layer: Any) -> str:
        """Refuse what is no linear layer."""
        base = layer.get_base_layer()
        return "" if isinstance(base, nn.Linear) else type(base).__name__

    def facts(self, layer: Any, part: str, tensor: torch.Tensor) -> Facts:
        """Return the facts of a layer's matrix."""
        del layer, part, tensor
        return Facts(axes=("rank", "out_features"))

    @contextlib.contextmanager
    def serving(self, model: nn.Module) -> Iterator[None]:
        """Let each layer take the pattern of its sums as A."""
        layers = list(self.layers(model).values())
        try:
            for layer in layers:
                block = layer.miss_block["default"]
                pattern = torch.zeros(layer.get_base_layer().in_features, block.shape[0])
                layer.register_buffer(PATTERN, pattern, persistent=False)
                layer.forward = _forward(layer)
            yield
        finally:
            for layer in layers:
                del layer.forward
                delattr(layer, PATTERN)

    def serving_inputs(self, adapted: Adapted) -> list[ServingInput]:
        """Return the tensors, and behind each matrix the pattern of its sums."""
        inputs: list[ServingInput] = []
        buffers = dict(adapted.model.named_buffers())
        for given in super().serving_inputs(adapted):
            inputs.append(given)
            if given.key.endswith(f".{_BLOCK}"):
                name = given.name.replace(f"{_BLOCK}.default", PATTERN)
                key = given.key.replace(_BLOCK, PATTERN)
                inputs.append(ranked_input(key, name, buffers[name].shape, 1, transposed=False))
        return inputs


METHOD = Miss()


def _forward(layer: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = layer.base_layer(x) + (x @ getattr(layer, PATTERN)) @ layer.miss_block["default"]
        return result

    return forward
