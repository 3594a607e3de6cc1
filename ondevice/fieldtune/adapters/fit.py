"""Whether an adapter fits a bundle: base, task, targets, shapes, ranks, labels; every mismatch at once."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fieldtune.adapters.adapter import PREFIX, Adapter, lora_modules, same_parameter
from fieldtune.adapters.tensors import FLOAT_DTYPES
from fieldtune.bundle.layout import ParameterSpec
from fieldtune.bundle.manifest import Manifest
from fieldtune.errors import AdapterMismatch, InvalidAdapter, listed
from fieldtune.files.fields import Table

_RANK_AXES = {"lora_A.weight": 0, "lora_B.weight": 1, "lora_embedding_A": 0, "lora_embedding_B": 1}
_FEATURES = {
    "lora_a": "in_features",
    "lora_b": "out_features",
    "lora_embedding_a": "num_embeddings",
    "lora_embedding_b": "embedding_dim",
}


def scales(adapter: Adapter, modules: Iterable[str]) -> dict[str, float]:
    """Return what each module's B A x is multiplied with, by PEFT's rules.

    alpha / rank (Hu et al. 2021, §4.1), or alpha / √rank with ``use_rslora`` (Kalajdzievski 2023); ``rank_pattern`` and
    ``alpha_pattern`` override ``r`` and ``lora_alpha`` for the modules that they match.

    Args:
        adapter: the adapter.
        modules: paths as in ``ParameterSpec.module``.

    Raises:
        InvalidAdapter: a setting of another type, or tensors of another rank than the settings say; all are listed.
    """
    modules = tuple(modules)
    faults = _rank_faults(adapter, modules)
    if faults:
        raise InvalidAdapter(f"{adapter.where}: ranks of adapter_config.json and of the tensors differ{listed(faults)}")
    return {module: _scale(adapter.config, module, adapter.where) for module in modules}


def check_fits(adapter: Adapter, manifest: Manifest, *, for_training: bool) -> None:
    """Check that an adapter can be served by a bundle, or trained further with it.

    Serving takes any rank and alpha; training only the bundle's own, which its gradient graph has built in.

    Raises:
        AdapterMismatch: it does not fit; every mismatch is listed.
        InvalidAdapter: a setting of adapter_config.json has another type.
    """
    if manifest.merged and adapter.tensors.tensors:
        raise AdapterMismatch(
            f"{adapter.where}: cannot be used with this bundle of {manifest.base.id}, which has the adapter "
            f"{manifest.merged.adapter} merged into its weights; name the bundle that it was merged from"
        )
    faults = [
        *_origin_faults(adapter, manifest),
        *_missing(adapter, manifest, for_training=for_training),
        *_extra(adapter, manifest),
        *_shape_faults(adapter, manifest),
        *_rank_faults(adapter, lora_modules(manifest)),
    ]
    if for_training:
        faults += _training_faults(adapter, manifest)
    if faults:
        raise AdapterMismatch(
            f"{adapter.where}: does not fit the bundle of {manifest.base.id}; "
            f"{len(faults)} mismatch(es){listed(faults)}"
        )


def _origin_faults(adapter: Adapter, manifest: Manifest) -> list[str]:
    faults: list[str] = []
    card, task = adapter.card, manifest.task
    if card and card.base_sha256 and card.base_sha256 != manifest.base.sha256:
        faults.append(
            f"trained on another base model (sha256 {card.base_sha256[:12]}…; "
            f"the bundle's base has {manifest.base.sha256[:12]}…)"
        )
    if card and card.task != task.name:
        faults.append(f"trained for the task {card.task}; the bundle's is {task.name}")
    if card and len(card.labels) != len(task.labels):
        faults.append(f"{_labels(card.labels)}; the bundle has {_labels(task.labels)}")
    for key in ("task_type", "ensure_weight_tying"):
        ours, theirs = adapter.config.get(key), manifest.peft_config.get(key)
        if ours != theirs and None not in (ours, theirs):
            faults.append(f"{key} is {ours!r} in adapter_config.json; the bundle was built with {theirs!r}")
    return faults


def _missing(adapter: Adapter, manifest: Manifest, *, for_training: bool) -> list[str]:
    return [
        f"{p.key}: missing; the bundle trains it ({p.role} of {p.module})"
        for p in manifest.layout.parameters
        if p.key not in adapter.tensors.tensors and (for_training or not _may_lack(adapter.config, p))
    ]


def _may_lack(config: Mapping[str, Any], parameter: ParameterSpec) -> bool:
    if parameter.role != "bias":
        return False
    if parameter.key.endswith(".lora_B.bias"):
        return not config.get("lora_bias")
    return config.get("bias") in (None, "none")


def _extra(adapter: Adapter, manifest: Manifest) -> list[str]:
    known = {same_parameter(p.key) for p in manifest.layout.parameters}
    copies = {f"{PREFIX}{module}.base_layer.weight" for module in lora_modules(manifest)}
    same_base = adapter.card is not None and adapter.card.base_sha256 == manifest.base.sha256
    faults = []
    for key in adapter.tensors.tensors:
        # A head's original_module is what the saved head stands in for: no forward pass reads it.
        if same_parameter(key) in known or ".original_module." in key:
            continue
        if key not in copies:
            faults.append(f"{key}: the bundle has no such part of an adapter")
        elif not same_base:
            faults.append(
                f"{key}: a copy of a base weight, which may not be the bundle's; "
                "save the adapter with save_embedding_layers=False"
            )
    return faults


def _shape_faults(adapter: Adapter, manifest: Manifest) -> list[str]:
    labels = manifest.task.labels
    faults = []
    for p in manifest.layout.parameters:
        stored = adapter.tensors.tensors.get(p.key)
        if stored is None:
            continue
        if stored.dtype not in FLOAT_DTYPES:
            faults.append(f"{p.key}: dtype {stored.dtype}; expected one of {', '.join(FLOAT_DTYPES)}")
        expected = _with_rank(p.shape, p.rank_axis)
        if _with_rank(stored.shape, p.rank_axis) == expected:
            continue
        fault = f"{p.key}: shape {_shape(stored.shape)}; expected {_shape(expected)}"
        if p.rank_axis is not None:
            fault += f": another {_FEATURES[p.role]}"
        elif p.role == "saved" and labels and p.shape[0] == len(labels) and stored.shape[1:] == p.shape[1:]:
            fault += f": {stored.shape[0]} label(s); the bundle has {_labels(labels)}"
        faults.append(fault)
    return faults


def _rank_faults(adapter: Adapter, modules: Iterable[str]) -> list[str]:
    faults = []
    for module in modules:
        expected = _rank(adapter.config, module, adapter.where)
        for suffix, axis in _RANK_AXES.items():
            stored = adapter.tensors.tensors.get(f"{PREFIX}{module}.{suffix}")
            if stored is not None and len(stored.shape) > axis and stored.shape[axis] != expected:
                faults.append(f"{module}.{suffix}: rank {stored.shape[axis]}; adapter_config.json says {expected}")
    return faults


def _training_faults(adapter: Adapter, manifest: Manifest) -> list[str]:
    ranks: dict[tuple[int, int], list[str]] = {}
    layout_ranks = {p.module: p.shape[p.rank_axis] for p in manifest.layout.parameters if p.rank_axis is not None}
    factors: dict[tuple[float, float], list[str]] = {}
    for module in lora_modules(manifest):
        rank = _rank(adapter.config, module, adapter.where), layout_ranks[module]
        factor = _scale(adapter.config, module, adapter.where), _scale(manifest.peft_config, module, "the bundle")
        if rank[0] != rank[1]:
            ranks.setdefault(rank, []).append(module)
        elif factor[0] != factor[1]:
            factors.setdefault(factor, []).append(module)
    advice = (
        f"build a bundle from this adapter: fieldtune-offline build {manifest.base.id} --task {manifest.task.name} "
        f"--adapter {adapter.where} --out NEW"
    )
    faults = [
        f"rank {ours} in {_some(modules)}; training continues only at the bundle's own rank, {theirs}: {advice}"
        for (ours, theirs), modules in ranks.items()
    ]
    faults += [
        f"scale (alpha / rank) {ours:g} in {_some(modules)}; the bundle's gradient graph has {theirs:g}: {advice}"
        for (ours, theirs), modules in factors.items()
    ]
    if str(adapter.config.get("init_lora_weights")).lower() == "mica":
        faults.append("init_lora_weights 'mica' keeps B frozen; the bundle trains it: train this adapter with PEFT")
    return faults


def _rank(config: Mapping[str, Any], module: str, where: str) -> int:
    table = Table({"r": 8} | dict(config), f"{where}: adapter_config.json", InvalidAdapter)
    rank = table.integer("r", least=1)
    pattern = config.get("rank_pattern") or {}
    key = _pattern_key(pattern, module, where)
    return Table(pattern, f"{table.where}: rank_pattern", InvalidAdapter).integer(key, rank, least=1)


def _scale(config: Mapping[str, Any], module: str, where: str) -> float:
    table = Table(
        {"lora_alpha": 8, "use_rslora": False} | dict(config), f"{where}: adapter_config.json", InvalidAdapter
    )
    pattern = config.get("alpha_pattern") or {}
    key = _pattern_key(pattern, module, where)
    alpha = Table(pattern, f"{table.where}: alpha_pattern", InvalidAdapter).number(key, table.number("lora_alpha"))
    rank = _rank(config, module, where)
    return alpha / (math.sqrt(rank) if table.flag("use_rslora") else rank)


def _pattern_key(pattern: object, module: str, where: str) -> str:
    """Return the first key that matches the module, as ``get_pattern_key`` of peft 0.21 finds it; else the module."""
    keys = pattern if isinstance(pattern, Mapping) else ()
    try:
        return next((str(key) for key in keys if re.match(rf"(.*\.)?({key})$", module)), module)
    except re.error as error:
        raise InvalidAdapter(
            f"{where}: adapter_config.json: the pattern {error.pattern!r} is not a regular expression ({error})"
        ) from error


def _with_rank(shape: tuple[int, ...], axis: int | None) -> tuple[int | str, ...]:
    return tuple("rank" if index == axis else size for index, size in enumerate(shape))


def _shape(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _labels(labels: tuple[str, ...]) -> str:
    return f"{len(labels)} label(s) ({', '.join(labels)})" if labels else "no labels"


def _some(modules: list[str]) -> str:
    return modules[0] if len(modules) == 1 else f"{len(modules)} modules ({modules[0]}, …)"
