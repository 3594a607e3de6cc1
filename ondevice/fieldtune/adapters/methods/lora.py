"""LoRA on the device (Hu et al. 2021): W x + (alpha / rank) · B A x, with a rank and an alpha for each module."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fieldtune.adapters.adapter import PREFIX, Adapter, adapted_modules
from fieldtune.adapters.methods.interface import Method, build_again, some
from fieldtune.bundle import Manifest, ParameterSpec
from fieldtune.errors import InvalidAdapter, listed
from fieldtune.files import Fields

# Every setting of peft 0.21's LoraConfig that makes the forward pass another than W x + (alpha / rank) B A x.
_UNSUPPORTED = {
    "use_qalora": "QALoRA pools the input of A",
    "alora_invocation_tokens": "aLoRA applies from an invocation on only",
    "arrow_config": "Arrow routes between adapters",
    "use_bdlora": "BD-LoRA stores block-diagonal factors",
    "kasa_config": "KaSA truncates the base weight",
    "monteclora_config": "MonteCLoRA samples its factors",
    "velora_config": "VeLoRA has a backward pass of its own",
    "trainable_token_indices": "single rows of an embedding are replaced",
    "target_parameters": "parameters without a module are adapted",
    "layer_replication": "layers of the base are repeated",
}
# These initializations subtract what they put into A and B from the base weight, and again whenever PEFT loads them.
_BASE_CHANGING_INITS = ("pissa", "corda", "olora", "lora_ga", "loftq")
_RANK_AXES = {"lora_A.weight": 0, "lora_B.weight": 1, "lora_embedding_A": 0, "lora_embedding_B": 1}
_BIAS = ".lora_B.bias"


class Lora(Method):
    """Low-rank pairs beside linear layers, embeddings and convolutions."""

    name = "lora"
    title = "LoRA"
    peft_type = "LORA"

    def setting_faults(self, config: Mapping[str, Any]) -> list[str]:
        """Return every setting that changes the forward pass, or the base on loading."""
        faults = [f"{key}: {why}" for key, why in _UNSUPPORTED.items() if config.get(key)]
        init = str(config.get("init_lora_weights")).lower()
        if init.startswith(_BASE_CHANGING_INITS):
            advice = (
                "" if init == "loftq" else "; save it with path_initial_model_for_weight_conversion to get plain LoRA"
            )
            faults.append(f"init_lora_weights {init!r}: the base weight is changed on loading{advice}")
        return faults

    def described(self, config: Mapping[str, Any]) -> str:
        """Return rank and alpha."""
        return f"rank {config.get('r')}, alpha {config.get('lora_alpha')}"

    def settings(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return rank, alpha and targets, and what else is set."""
        settings = {"rank": config.get("r"), "alpha": config.get("lora_alpha"), **super().settings(config)}
        more = ("rank_pattern", "alpha_pattern", "use_rslora", "bias", "lora_bias")
        return settings | {key: config[key] for key in more if config.get(key) not in (None, {}, False, "none")}

    def may_lack(self, config: Mapping[str, Any], parameter: ParameterSpec) -> bool:
        """Whether the settings have no bias after B, or none of the base's."""
        return not config.get("lora_bias") if parameter.key.endswith(_BIAS) else super().may_lack(config, parameter)

    def copies(self, manifest: Manifest) -> frozenset[str]:
        """Return the keys of frozen weights of targeted layers, which PEFT saves of embeddings."""
        return frozenset(f"{PREFIX}{module}.base_layer.weight" for module in adapted_modules(manifest))

    def rank_faults(self, adapter: Adapter, modules: Iterable[str]) -> list[str]:
        """Hold the rank of every A and B against ``r`` and ``rank_pattern``."""
        faults = []
        for module in modules:
            expected = _rank(adapter.config, module, adapter.where)
            for suffix, axis in _RANK_AXES.items():
                stored = adapter.tensors.tensors.get(f"{PREFIX}{module}.{suffix}")
                if stored is not None and len(stored.shape) > axis and stored.shape[axis] != expected:
                    faults.append(f"{module}.{suffix}: rank {stored.shape[axis]}; adapter_config.json says {expected}")
        return faults

    def training_faults(self, adapter: Adapter, manifest: Manifest) -> list[str]:
        """Training takes the bundle's own ranks and scales only, which its gradient graph has built in."""
        ranks: dict[tuple[int, int], list[str]] = {}
        layout_ranks = {p.module: p.shape[p.rank_axis] for p in manifest.layout.parameters if p.rank_axis is not None}
        factors: dict[tuple[float, float], list[str]] = {}
        for module in adapted_modules(manifest):
            rank = _rank(adapter.config, module, adapter.where), layout_ranks[module]
            factor = _scale(adapter.config, module, adapter.where), _scale(manifest.peft_config, module, "the bundle")
            if rank[0] != rank[1]:
                ranks.setdefault(rank, []).append(module)
            elif factor[0] != factor[1]:
                factors.setdefault(factor, []).append(module)
        advice = build_again(adapter, manifest)
        faults = [
            f"rank {ours} in {some(modules)}; training continues only at the bundle's own rank, {theirs}: {advice}"
            for (ours, theirs), modules in ranks.items()
        ]
        faults += [
            f"scale (alpha / rank) {ours:g} in {some(modules)}; the bundle's gradient graph has {theirs:g}: {advice}"
            for (ours, theirs), modules in factors.items()
        ]
        if str(adapter.config.get("init_lora_weights")).lower() == "mica":
            faults.append("init_lora_weights 'mica' keeps B frozen; the bundle trains it: train this adapter with PEFT")
        return faults

    def scales(self, adapter: Adapter, modules: Iterable[str]) -> dict[str, float]:
        """Return what each module's B A x is multiplied with, by PEFT's rules.

        alpha / rank (Hu et al. 2021, §4.1), or alpha / √rank with ``use_rslora`` (Kalajdzievski 2023);
        ``rank_pattern`` and ``alpha_pattern`` override ``r`` and ``lora_alpha`` for the modules that they match.

        Args:
            adapter: the adapter.
            modules: paths as in ``ParameterSpec.module``.

        Raises:
            InvalidAdapter: a setting of another type, or tensors of another rank than the settings say; all are listed.
        """
        modules = tuple(modules)
        faults = self.rank_faults(adapter, modules)
        if faults:
            raise InvalidAdapter(
                f"{adapter.where}: ranks of adapter_config.json and of the tensors differ{listed(faults)}"
            )
        return {module: _scale(adapter.config, module, adapter.where) for module in modules}


METHOD = Lora()


def _rank(config: Mapping[str, Any], module: str, where: str) -> int:
    table = Fields({"r": 8} | dict(config), f"{where}: adapter_config.json", InvalidAdapter)
    rank = table.integer("r", least=1)
    pattern = config.get("rank_pattern") or {}
    key = _pattern_key(pattern, module, where)
    return Fields(pattern, f"{table.where}: rank_pattern", InvalidAdapter).integer(key, rank, least=1)


def _scale(config: Mapping[str, Any], module: str, where: str) -> float:
    table = Fields(
        {"lora_alpha": 8, "use_rslora": False} | dict(config), f"{where}: adapter_config.json", InvalidAdapter
    )
    pattern = config.get("alpha_pattern") or {}
    key = _pattern_key(pattern, module, where)
    alpha = Fields(pattern, f"{table.where}: alpha_pattern", InvalidAdapter).number(key, table.number("lora_alpha"))
    rank = _rank(config, module, where)
    return alpha / (math.sqrt(rank) if table.flag("use_rslora") else rank)


def _pattern_key(pattern: object, module: str, where: str) -> str:
    """Return the first key that matches the module, as ``get_pattern_key`` of peft 0.21 finds it; else the module."""
    keys = pattern if isinstance(pattern, Mapping) else ()
    return next((str(key) for key in keys if _matches(key, module, where)), module)


def _matches(key: str, module: str, where: str) -> bool:
    try:
        return re.match(rf"(.*\.)?({key})$", module) is not None
    except (re.error, OverflowError, RecursionError) as error:  # a count or a nesting may be beyond all bounds
        raise InvalidAdapter(
            f"{where}: adapter_config.json: the pattern {key!r} is not a regular expression ({error})"
        ) from error
