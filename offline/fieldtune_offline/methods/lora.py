"""PEFT's LoraConfig honoured field by field, or refused by the field's name."""

import dataclasses
import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fieldtune.errors import InvalidAdapter, UnsupportedModel, listed
from fieldtune_offline.models import BaseModel
from fieldtune_offline.quiet import quiet_loading
from fieldtune_offline.spec import BuildSpec
from fieldtune_offline.tasks.interface import Task

# Fields of LoraConfig whose every value is honoured: what they do is in the model before the graph is traced.
_HONOURED = {
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "r", "target_modules", "exclude_modules", "lora_alpha", "fan_in_fan_out", "bias", "use_rslora", "modules_to_save",
    "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "lora_bias",
    "megatron_core", "qalora_group_size",  # without the field that turns them on they say nothing
}  # fmt: skip
_INITIALIZATIONS = (True, False, "gaussian", "orthogonal")
_REASONS = {
    "lora_dropout": "dropout would make the graph random; set it to 0",
    "use_dora": "the magnitude of each column is not part of the graphs yet",
    "init_lora_weights": "it rewrites the base's weights, which a bundle shares between adapters",
}


def new_config(base: BaseModel, spec: BuildSpec, task: type[Task]) -> Any:
    """Return the LoraConfig of a new adapter, which saves whatever the checkpoint lacks.

    Raises:
        UnsupportedModel: a file that is not JSON, a field that LoraConfig does not have, or a value that it refuses.
    """
    from peft import LoraConfig

    lora = spec.lora
    targets = lora.target_modules
    fields: dict[str, Any] = {
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": ("all-linear" if targets == ("all-linear",) else list(targets)) if targets else None,
        "modules_to_save": list(lora.modules_to_save) or None,
        "use_rslora": lora.rslora,
        "bias": lora.bias,
    }
    if lora.peft_config is not None:
        fields.update(_read_config(lora.peft_config))
    fields["task_type"] = task.peft_type
    saved = sorted({*(fields["modules_to_save"] or ()), *base.new_modules})
    fields["modules_to_save"] = saved or None
    known = {field.name for field in dataclasses.fields(LoraConfig)}
    unknown = sorted(set(fields) - known)
    if unknown:
        near = [f"{name!r} (nearest: {_nearest(name, known)})" for name in unknown]
        raise UnsupportedModel(f"{lora.peft_config}: LoraConfig has no field {', '.join(near)}")
    try:
        with quiet_loading():
            config = LoraConfig(**fields)
    except (ValueError, TypeError) as error:
        raise UnsupportedModel(f"LoraConfig refuses these settings: {error}") from error
    # PEFT drops the set-up of a feature that is not turned on, with a warning.
    dropped = [name for name in fields if fields[name] and not getattr(config, name) and name not in _HONOURED]
    if dropped:
        raise UnsupportedModel(f"{lora.peft_config}: without effect, and not supported: {', '.join(dropped)}")
    return config


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnsupportedModel(f"{path}: not a JSON file with fields of LoraConfig: {error}") from error
    if not isinstance(config, dict):
        raise UnsupportedModel(f"{path}: expected a JSON object with fields of LoraConfig")
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise UnsupportedModel(f"{path}: peft_type is {kind}; only LORA is supported")
    return config


def stored_config(folder: Path, task: type[Task]) -> Any:
    """Return the LoraConfig of a PEFT directory.

    Raises:
        InvalidAdapter: it cannot be read, or is for another task.
    """
    from peft import LoraConfig, PeftConfig

    try:
        with quiet_loading():
            config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise InvalidAdapter(f"{folder}: adapter_config.json cannot be read: {error}") from error
    assert isinstance(config, LoraConfig)
    if config.task_type not in (None, task.peft_type):
        raise InvalidAdapter(f"{folder}: task_type is {config.task_type}; expected {task.peft_type} for {task.name}")
    return config


def check_config(config: Any, where: str) -> None:
    """Refuse every field that is set and not honoured; fields of a future PEFT are refused until they are looked at."""
    defaults = type(config)()
    faults = []
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), getattr(defaults, field.name)
        if field.name in _HONOURED or value == default or not value:
            continue
        if field.name == "init_lora_weights" and value in _INITIALIZATIONS:
            continue
        reason = _REASONS.get(field.name, "not supported")
        faults.append(f"{field.name}={value!r}: {reason}")
    if faults:
        raise UnsupportedModel(f"{where}: settings of LoraConfig that are not supported{listed(faults)}")


def check_names(model: nn.Module, config: Any) -> None:
    """Refuse a name that matches no module, which PEFT does only when all of them match nothing."""
    names = [name for name, _ in model.named_modules() if name]
    kinds = {name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Embedding | _conv1d())}
    leaves = {name.rsplit(".", 1)[-1] for name in names}
    adaptable = {name.rsplit(".", 1)[-1] for name in kinds}
    faults: list[str] = []
    for field, known in (("target_modules", adaptable), ("exclude_modules", leaves), ("modules_to_save", leaves)):
        wanted = getattr(config, field)
        if wanted is None or wanted == "all-linear":
            continue
        if isinstance(wanted, str):
            matched = any(re.fullmatch(wanted, name) for name in names)
            faults += [] if matched else [f"{field} {wanted!r}; modules end in: {', '.join(sorted(known))}"]
            continue
        for target in sorted(wanted):
            if not any(f".{name}".endswith(f".{target}") for name in names):
                faults.append(f"{field}: {target!r}; nearest: {_nearest(target, known)}")
    if faults:
        raise UnsupportedModel(f"names that match nothing in the model{listed(faults)}")


def check_targeted(targeted: Sequence[str], config: Any) -> None:
    """Refuse settings for modules or layers that are not adapted."""
    faults = [
        f"{field}: {key!r}"
        for field in ("rank_pattern", "alpha_pattern")
        for key in getattr(config, field)
        if not any(re.match(rf"(.*\.)?({key})$", name) for name in targeted)
    ]
    layers = config.layers_to_transform
    faults += [
        f"layers_to_transform: {layer}"
        for layer in ([layers] if isinstance(layers, int) else layers or ())
        if not any(str(layer) in name.split(".") for name in targeted)
    ]
    if faults:
        raise UnsupportedModel(
            f"settings for what is not adapted (it is: {', '.join(targeted[:6])}, …){listed(faults)}"
        )


def _nearest(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.3)
    return ", ".join(near or sorted(known)[:6])


def _conv1d() -> type[nn.Module]:
    from transformers.pytorch_utils import Conv1D

    return Conv1D
