"""PEFT's configuration of a method, honoured field by field, or refused by the field's name."""

import dataclasses
import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fieldtune.errors import InvalidAdapter, UnsupportedModel, listed
from fieldtune_offline.methods.interface import Method
from fieldtune_offline.quiet import quiet_loading
from fieldtune_offline.spec import MethodSpec
from fieldtune_offline.tasks.interface import Task

# What says where a configuration comes from, and which modules it is for: all methods have it.
_HONOURED = frozenset({
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "target_modules", "exclude_modules", "modules_to_save",
})  # fmt: skip


def new_config(method: Method, spec: MethodSpec, task: type[Task], new_modules: Sequence[str]) -> Any:
    """Return the configuration of a new adapter, which saves whatever the checkpoint lacks.

    Args:
        method: how it adapts.
        spec: the settings.
        task: of the model.
        new_modules: what the checkpoint lacks.

    Raises:
        UnsupportedModel: a file that is not JSON, a field that the configuration does not have, or a value that it
            refuses.
    """
    targets = spec.target_modules
    fields: dict[str, Any] = {
        **method.fields(spec),
        "target_modules": ("all-linear" if targets == ("all-linear",) else list(targets)) if targets else None,
        "modules_to_save": list(spec.modules_to_save) or None,
    }
    if spec.peft_config is not None:
        fields.update(read_config(spec.peft_config))
    fields["task_type"] = task.peft_type
    saved = sorted({*(fields["modules_to_save"] or ()), *new_modules})
    fields["modules_to_save"] = saved or None
    kind = method.config_class()
    known = {field.name for field in dataclasses.fields(kind)}
    unknown = sorted(set(fields) - known)
    if unknown:
        near = [f"{name!r} (nearest: {_nearest(name, known)})" for name in unknown]
        raise UnsupportedModel(f"{spec.peft_config}: {kind.__name__} has no field {', '.join(near)}")
    try:
        with quiet_loading():
            config = kind(**fields)
    except (ValueError, TypeError) as error:
        raise UnsupportedModel(f"{kind.__name__} refuses these settings: {error}") from error
    # PEFT drops the set-up of a feature that is not turned on, with a warning.
    honoured = _HONOURED | method.honoured
    dropped = [name for name in fields if fields[name] and not getattr(config, name) and name not in honoured]
    if dropped:
        raise UnsupportedModel(f"{spec.peft_config}: without effect, and not supported: {', '.join(dropped)}")
    return config


def read_config(path: Path) -> dict[str, Any]:
    """Return the fields in a JSON file.

    Raises:
        UnsupportedModel: it is no such file.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnsupportedModel(f"{path}: not a JSON file with fields of PEFT's configuration: {error}") from error
    if not isinstance(config, dict):
        raise UnsupportedModel(f"{path}: expected a JSON object with fields of PEFT's configuration")
    return config


def stored_config(method: Method, folder: Path, task: type[Task]) -> Any:
    """Return the configuration of a PEFT directory.

    Raises:
        InvalidAdapter: it cannot be read, or is for another task.
    """
    from peft import PeftConfig

    try:
        with quiet_loading():
            config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise InvalidAdapter(f"{folder}: adapter_config.json cannot be read: {error}") from error
    assert isinstance(config, method.config_class())
    if config.task_type not in (None, task.peft_type):
        raise InvalidAdapter(f"{folder}: task_type is {config.task_type}; expected {task.peft_type} for {task.name}")
    return config


def check_config(method: Method, config: Any, where: str) -> None:
    """Refuse every field that is set and not honoured; fields of a future PEFT are refused until they are looked at."""
    defaults = type(config)()
    faults = []
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), getattr(defaults, field.name)
        if field.name in _HONOURED | method.honoured or value == default or not value:
            continue
        if method.honours(field.name, value):
            continue
        reason = method.reasons.get(field.name, "not supported")
        faults.append(f"{field.name}={value!r}: {reason}")
    if faults:
        raise UnsupportedModel(f"{where}: settings of {type(config).__name__} that are not supported{listed(faults)}")


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
        for key in getattr(config, field, None) or ()
        if not any(re.match(rf"(.*\.)?({key})$", name) for name in targeted)
    ]
    layers = getattr(config, "layers_to_transform", None)
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
