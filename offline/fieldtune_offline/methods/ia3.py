"""IA³ on the dev box (Liu et al. 2022): (W x + b) · l, or W (x · l) + b in feed-forward modules, as PEFT has it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from fieldtune_offline.adapted import Adapted
from fieldtune_offline.methods.interface import Facts, Method, ServingInput, ones_unfed
from fieldtune_offline.passes.fold_factors import fold_ia3
from fieldtune_offline.passes.merged_tensor import Fold
from fieldtune_offline.spec import MethodSpec


class Ia3(Method):
    """A factor for each output, or for each input."""

    name = "ia3"
    supported = "linear layers and convolutions"
    settings = frozenset({"feedforward_modules"})
    honoured = frozenset({"feedforward_modules", "fan_in_fan_out"})

    @property
    def fold(self) -> Fold | None:
        """Rows, or columns, of W times their factors."""
        return fold_ia3

    def config_class(self) -> Any:
        """Return IA3Config."""
        from peft import IA3Config

        return IA3Config

    def fields(self, spec: MethodSpec) -> dict[str, Any]:
        """Return whose inputs have the factors: PEFT's choice where the targets are, else none that is not named."""
        if not spec.target_modules and not spec.feedforward_modules:
            return {"feedforward_modules": None}
        return {"feedforward_modules": list(spec.feedforward_modules)}

    def narrowed(self, config: Any, targets: Sequence[str]) -> Any:
        """Return a configuration for some of the modules: those that are feed-forward stay so."""
        ends = config.feedforward_modules
        if not isinstance(ends, set | list | tuple):
            return super().narrowed(config, targets)
        inputs = [target for target in targets if target.endswith(tuple(ends))]
        return dataclasses.replace(config, target_modules=list(targets), feedforward_modules=inputs)

    def layer_class(self) -> type[Any]:
        """Return IA3Layer."""
        from peft.tuners.ia3 import IA3Layer

        return IA3Layer

    def layer_fault(self, layer: Any) -> str:
        """Refuse what is no linear layer and no convolution."""
        from peft.tuners.ia3 import Conv2d, Linear

        return "" if type(layer) in (Linear, Conv2d) else type(layer).__name__

    def facts(self, layer: Any, part: str, tensor: torch.Tensor) -> Facts:
        """Return the facts of a layer's factors; decay would draw them to 0, and 1 is what changes nothing."""
        del part
        if tensor.ndim == 4:
            channels = "in_channels" if layer.is_feedforward else "out_channels"
            return Facts(axes=("one", channels, "height", "width"), decay=False)
        return Facts(axes=("one", "in_features") if layer.is_feedforward else ("out_features", "one"), decay=False)

    def serving_inputs(self, adapted: Adapted) -> list[ServingInput]:
        """Return the tensors as they are; factors are 1 where nothing is fed."""
        own = {p.key for p in adapted.layout.parameters if p.replaces is None}
        return ones_unfed(super().serving_inputs(adapted), own)


METHOD = Ia3()
