"""IA³ on the device (Liu et al. 2022): a factor for each output of a layer, or each input of a feed-forward one."""

from collections.abc import Mapping
from typing import Any

from fieldtune.adapters.methods.interface import Method


class Ia3(Method):
    """Factors, fed as they are."""

    name = "ia3"
    title = "IA³"
    peft_type = "IA3"

    def setting_faults(self, config: Mapping[str, Any]) -> list[str]:
        """Return what is no list of modules; no setting of peft 0.21's IA3Config makes the forward pass another."""
        inputs = config.get("feedforward_modules")
        if inputs is None or isinstance(inputs, str):
            return []
        if isinstance(inputs, list) and all(isinstance(name, str) for name in inputs):
            return []
        return [f"feedforward_modules {inputs!r}: expected a list of names of modules, or a pattern"]

    def described(self, config: Mapping[str, Any]) -> str:
        """Return what the factors are of."""
        inputs = config.get("feedforward_modules") or ()
        named = inputs if isinstance(inputs, str) else ", ".join(sorted(inputs))
        return f"factors of outputs; of inputs in {named}" if named else "factors of outputs"

    def settings(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the targets, and those whose inputs have the factors."""
        return {**super().settings(config), "feedforward": config.get("feedforward_modules")}


METHOD = Ia3()
