"""MiSS on the device (Kang and Yin 2024): each output takes sums of every r-th input, by a matrix of r rows.

It is served as a low-rank pair, whose A is fixed: 1 where an input counts for a sum, else 0.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fieldtune.adapters.adapter import PREFIX, Adapter, adapted_modules
from fieldtune.adapters.methods.interface import Method, build_again, some
from fieldtune.bundle import Bundle, FloatArray, Manifest, forward_graphs
from fieldtune.errors import InvalidAdapter, InvalidBundle
from fieldtune.files import Fields

PATTERN = "miss_pattern"
"""What follows the module's path in the name of the input that takes A."""
_BLOCK = "miss_block"
_FORMS = {"bat": "the update depends on the base weight", "mini": "the matrix is stored once for several outputs"}


class Miss(Method):
    """A matrix of r rows for each layer, without a scale."""

    name = "miss"
    title = "MiSS"
    peft_type = "MISS"

    def setting_faults(self, config: Mapping[str, Any]) -> list[str]:
        """Return the forms of MiSS that are computed in another way."""
        form = config.get("init_weights")
        return [f"init_weights {form!r}: {_FORMS[form]}"] if isinstance(form, str) and form in _FORMS else []

    def described(self, config: Mapping[str, Any]) -> str:
        """Return the rank."""
        return f"rank {config.get('r')}"

    def settings(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return rank, targets and biases."""
        settings = {"rank": config.get("r"), **super().settings(config)}
        return settings | {key: config[key] for key in ("bias",) if config.get(key) not in (None, "none")}

    def rank_faults(self, adapter: Adapter, modules: Iterable[str]) -> list[str]:
        """Hold the rank of every matrix against ``r``."""
        expected = _rank(adapter.config, adapter.where)
        stored = {module: adapter.tensors.tensors.get(f"{PREFIX}{module}.{_BLOCK}") for module in modules}
        return [
            f"{module}.{_BLOCK}: rank {tensor.shape[0]}; adapter_config.json says {expected}"
            for module, tensor in stored.items()
            if tensor is not None and tensor.shape and tensor.shape[0] != expected
        ]

    def training_faults(self, adapter: Adapter, manifest: Manifest) -> list[str]:
        """Training takes the bundle's own rank only, which its gradient graph has built in."""
        ours, theirs = _rank(adapter.config, adapter.where), _rank(manifest.peft_config, "the bundle")
        if ours == theirs:
            return []
        where = some(list(adapted_modules(manifest)))
        advice = build_again(adapter, manifest)
        return [f"rank {ours} in {where}; training continues only at the bundle's own rank, {theirs}: {advice}"]

    def feeds(self, adapter: Adapter, bundle: Bundle, *, least_rank: int = 0) -> dict[str, FloatArray]:
        """Return the matrices padded to the largest rank, and for each the pattern that sums its inputs."""
        inputs = super().feeds(adapter, bundle, least_rank=least_rank)
        graphs = bundle.manifest.graphs
        sizes = {
            spec.name: spec.shape[0] for name in forward_graphs(bundle.manifest) for spec in graphs[name].adapter_inputs
        }
        for module in adapted_modules(bundle.manifest):
            block, pattern = f"{PREFIX}{module}.{_BLOCK}", f"{PREFIX}{module}.{PATTERN}"
            features, rank = sizes.get(pattern), adapter.tensors.tensors[block].shape[0]
            if not isinstance(features, int):
                raise InvalidBundle(f"{bundle.root}: no graph has an input {pattern!r}; build the bundle again")
            sums = np.zeros((features, inputs[block].shape[0]), np.float32)
            sums[np.arange(features), np.arange(features) % rank] = 1
            inputs[pattern] = sums
        return inputs


METHOD = Miss()


def _rank(config: Mapping[str, Any], where: str) -> int:
    # 64 is the default of peft 0.21's MissConfig.
    return Fields({"r": 64} | dict(config), f"{where}: adapter_config.json", InvalidAdapter).integer("r", least=1)
