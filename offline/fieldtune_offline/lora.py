"""The adapter on the torch model: PEFT's LoraConfig honoured field by field, or refused by the field's name."""

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fieldtune.errors import InvalidAdapter, UnsupportedModel, listed
from fieldtune.layout import Layout, ParameterSpec, Role
from fieldtune_offline.models import BaseModel
from fieldtune_offline.quiet import quiet_loading
from fieldtune_offline.spec import BuildSpec

_TASK_TYPES = {"text-classification": "SEQ_CLS", "text-generation": "CAUSAL_LM"}

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


@dataclasses.dataclass(frozen=True, slots=True)
class Adapted:
    """The model with its adapter.

    Attributes:
        model: a peft.PeftModel in evaluation mode; exactly the adapter's parameters require gradients.
        config: its LoraConfig.
        names: PEFT key → the name of the parameter in ``model``.
        layout: where each PEFT tensor lies in theta.
        scales: PEFT key of each lora_B → alpha / rank of its module, as PEFT computes it.
    """

    model: Any
    config: Any
    names: Mapping[str, str]
    layout: Layout


def adapt(base: BaseModel, spec: BuildSpec, task: str) -> Adapted:
    """Put the adapter on the base: a new one, or an existing one read from a PEFT directory.

    Raises:
        UnsupportedModel: a setting that is not supported, or targets that match nothing or no layer of a known kind.
        InvalidAdapter: ``spec.adapter`` is not a PEFT adapter for this base.
    """
    from peft import PeftModel, get_peft_model

    if spec.adapter is not None:
        config = _stored_config(spec.adapter, task)
        _check_config(config, str(spec.adapter))
        try:
            with quiet_loading():
                model = PeftModel.from_pretrained(base.model, str(spec.adapter), is_trainable=True)
        except (RuntimeError, ValueError, OSError, KeyError) as error:
            raise InvalidAdapter(f"{spec.adapter}: does not fit {spec.model}: {error}") from error
        config = model.peft_config["default"]
    else:
        config = _new_config(base, spec, task)
        _check_config(config, str(spec.lora.config or "the adapter"))
        _check_targets(base.model, config)
        torch.manual_seed(spec.seed)
        try:
            with quiet_loading():
                model = get_peft_model(base.model, config)
        except ValueError as error:
            raise UnsupportedModel(f"{spec.model}: PEFT refuses the adapter: {error}") from error
        config = model.peft_config["default"]
        config.base_model_name_or_path = spec.model
        if config.modules_to_save:
            # PEFT adds the usual names of heads to the list, whether they are in it or not.
            config.modules_to_save = list(dict.fromkeys(config.modules_to_save))
    model.eval()
    _check_layers(model)
    names = _keys(model)
    return Adapted(model, config, names, _layout(model, names))


def _new_config(base: BaseModel, spec: BuildSpec, task: str) -> Any:
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
    if lora.config is not None:
        fields.update(_read_config(lora.config))
    fields["task_type"] = _TASK_TYPES[task]
    saved = sorted({*(fields["modules_to_save"] or ()), *base.new_modules})
    fields["modules_to_save"] = saved or None
    known = {field.name for field in dataclasses.fields(LoraConfig)}
    unknown = sorted(set(fields) - known)
    if unknown:
        near = [f"{name!r} (nearest: {_nearest(name, known)})" for name in unknown]
        raise UnsupportedModel(f"{lora.config}: LoraConfig has no field {', '.join(near)}")
    try:
        return LoraConfig(**fields)
    except (ValueError, TypeError) as error:
        raise UnsupportedModel(f"LoraConfig refuses these settings: {error}") from error


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


def _stored_config(folder: Path, task: str) -> Any:
    from peft import LoraConfig, PeftConfig

    if not (folder / "adapter_config.json").is_file():
        raise InvalidAdapter(f"{folder}: not a PEFT adapter: no adapter_config.json in it")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise InvalidAdapter(f"{folder}: adapter_config.json cannot be read: {error}") from error
    if not isinstance(config, LoraConfig):
        raise UnsupportedModel(f"{folder}: peft_type is {config.peft_type}; only LORA is supported")
    if config.task_type not in (None, _TASK_TYPES[task]):
        raise InvalidAdapter(f"{folder}: task_type is {config.task_type}; expected {_TASK_TYPES[task]} for {task}")
    return config


def _check_config(config: Any, where: str) -> None:
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


def _check_targets(model: nn.Module, config: Any) -> None:
    """Refuse a target that matches nothing, which PEFT does only when all of them match nothing."""
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding) or _is_conv1d(module)
    ]
    leaves = {name.rsplit(".", 1)[-1] for name in names}
    targets = config.target_modules
    if targets is None or targets == "all-linear":
        return
    if isinstance(targets, str):
        if not any(re.fullmatch(targets, name) for name, _ in model.named_modules()):
            raise UnsupportedModel(
                f"target_modules {targets!r} matches nothing; modules end in: {', '.join(sorted(leaves))}"
            )
        return
    known = {name for name, _ in model.named_modules()}
    missing = [t for t in sorted(targets) if not any(name == t or name.endswith(f".{t}") for name in known)]
    if missing:
        faults = [f"{target!r}; nearest: {_nearest(target, leaves)}" for target in missing]
        raise UnsupportedModel(f"target_modules that match nothing in the model{listed(faults)}")


def _nearest(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.3)
    return ", ".join(near or sorted(known)[:6])


def _is_conv1d(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def _check_layers(model: nn.Module) -> None:
    from peft.tuners.lora import Embedding, Linear, LoraLayer

    faults = [
        f"{name}: {type(module).__name__}"
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer) and type(module) not in (Linear, Embedding)
    ]
    if faults:
        raise UnsupportedModel(f"LoRA is supported on linear layers and embeddings only{listed(faults)}")


def _keys(model: Any) -> dict[str, str]:
    """Return PEFT key → parameter name in the model's order, by the identity of the tensors that PEFT would save."""
    from peft import get_peft_model_state_dict

    for name, parameter in model.named_parameters():
        if ".original_module." in name:
            parameter.requires_grad_(False)  # bias="all" would train the unused original of a saved module, too
    # A targeted embedding would bring its frozen base along; an adapter holds only what is trained.
    saved = get_peft_model_state_dict(model, save_embedding_layers=False)
    by_storage: dict[int, str] = {}
    for key, tensor in saved.items():
        # With bias="all", PEFT writes a saved module's bias under two keys and reads the shorter one.
        place = tensor.data_ptr()
        by_storage[place] = min(by_storage.get(place, key), key, key=len)
    trained = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    lost = [name for name, tensor in trained.items() if tensor.data_ptr() not in by_storage]
    if lost:
        raise UnsupportedModel(
            f"parameters that require gradients, but that PEFT does not save with the adapter{listed(lost)}"
        )
    return {by_storage[tensor.data_ptr()]: name for name, tensor in trained.items()}


def _layout(model: Any, names: Mapping[str, str]) -> Layout:
    parameters: list[ParameterSpec] = []
    offset = 0
    tensors = dict(model.named_parameters())
    for key, name in names.items():
        tensor = tensors[name]
        specification = ParameterSpec(
            key=key,
            role=_role(key, name),
            module=_module(key),
            shape=tuple(tensor.shape),
            offset=offset,
            decay=tensor.ndim >= 2,  # biases and norms are vectors
        )
        parameters.append(specification)
        offset += specification.size
    return Layout(tuple(parameters))


def _role(key: str, name: str) -> Role:
    if ".modules_to_save." in name:
        return "saved"
    for part, role in _ROLE_OF_PART:
        if part in key:
            return "bias" if key.endswith(".bias") else role
    return "bias"


_ROLE_OF_PART: tuple[tuple[str, Role], ...] = (
    (".lora_embedding_A", "lora_embedding_a"),
    (".lora_embedding_B", "lora_embedding_b"),
    (".lora_A.", "lora_a"),
    (".lora_B.", "lora_b"),
)


def _module(key: str) -> str:
    path = key.removeprefix("base_model.model.")
    for part, _ in _ROLE_OF_PART:
        path = path.split(part.rstrip("."))[0]
    for suffix in (".weight", ".bias", ".base_layer"):
        path = path.removesuffix(suffix)
    return path
