"""The adapter on the torch model, and where each of its tensors lies in theta."""

import copy
import dataclasses
import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fieldtune.adapters.adapter import Adapter
from fieldtune.adapters.directory import read_adapter
from fieldtune.bundle.layout import Layout, ParameterSpec, Role
from fieldtune.errors import InvalidAdapter, UnsupportedModel, listed
from fieldtune_offline.adapted import Adapted
from fieldtune_offline.methods.last_blocks import last_blocks
from fieldtune_offline.methods.lora import check_config, check_names, check_targeted, new_config, stored_config
from fieldtune_offline.models import BaseModel
from fieldtune_offline.quiet import quiet_loading
from fieldtune_offline.spec import BuildSpec
from fieldtune_offline.tasks.interface import Task


def adapt(base: BaseModel, spec: BuildSpec, task: type[Task]) -> Adapted:
    """Put the adapter on the base: a new one, or an existing one read from a PEFT directory.

    Raises:
        UnsupportedModel: a setting that is not supported, or targets that match nothing or no layer of a known kind.
        InvalidAdapter: ``spec.adapter`` is not a PEFT adapter for this base.
    """
    model = _stored(base, spec, task) if spec.adapter is not None else _new(base, spec, task)
    model.eval()
    _check_layers(model)
    names = _keys(model)
    adapted = Adapted(model, model.peft_config["default"], names, _layout(model, names))
    if spec.adapter is not None:
        _check_stored(adapted, base, read_adapter(spec.adapter))
    if isinstance(spec.split, int):
        _check_blocks(adapted, base, spec.split)
    return adapted


def _new(base: BaseModel, spec: BuildSpec, task: type[Task]) -> Any:
    from peft import get_peft_model

    config = new_config(base, spec, task)
    check_config(config, str(spec.lora.peft_config or "the adapter"))
    asked = copy.deepcopy(config)  # PEFT fills it in
    torch.manual_seed(spec.seed)
    try:
        check_names(base.model, config)
        with quiet_loading():
            # What PEFT warns of here is an error below.
            warnings.filterwarnings("ignore", message=r"The following (rank|alpha)_pattern keys")
            model = get_peft_model(base.model, config)
            if isinstance(spec.split, int):
                targeted = model.targeted_module_names
                named = last_blocks(base.model, targeted, spec.split).among(targeted)
                torch.manual_seed(spec.seed)
                model = get_peft_model(model.unload(), dataclasses.replace(asked, target_modules=named))
    except (ValueError, NotImplementedError, re.error) as error:
        raise UnsupportedModel(f"{spec.model}: PEFT refuses the adapter: {error}") from error
    check_targeted(model.targeted_module_names, asked)
    config = model.peft_config["default"]
    config.base_model_name_or_path = spec.model
    for field in ("target_modules", "exclude_modules"):
        if isinstance(getattr(config, field), set):
            setattr(config, field, sorted(getattr(config, field)))  # a set is written in another order each time
    if config.modules_to_save:
        # PEFT adds the usual names of heads to the list, whether they are in it or not.
        config.modules_to_save = list(dict.fromkeys(config.modules_to_save))
    return model


def _stored(base: BaseModel, spec: BuildSpec, task: type[Task]) -> Any:
    from peft import PeftModel

    assert spec.adapter is not None
    read_adapter(spec.adapter)  # refuses what is no adapter, damaged, pickled or not plain LoRA
    check_config(stored_config(spec.adapter, task), str(spec.adapter))
    try:
        with quiet_loading():
            return PeftModel.from_pretrained(base.model, str(spec.adapter), is_trainable=True)
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise InvalidAdapter(f"{spec.adapter}: does not fit {spec.model}: {error}") from error


def _check_stored(adapted: Adapted, base: BaseModel, stored: Adapter) -> None:
    """Refuse an adapter whose tensors are not exactly those that are trained, which PEFT lets pass."""
    found = set(stored.tensors.tensors)
    faults = [f"{key}: missing" for key in adapted.names if key not in found]
    known = _saved(adapted.model)
    faults += [f"{key}: belongs to nothing that is trained" for key in sorted(found - set(known))]
    saved = [f".{parameter.module}." for parameter in adapted.layout.parameters if parameter.role == "saved"]
    for module in base.new_modules:
        if not any(f".{module}." in path for path in saved):
            faults.append(f"{module}: the base has no weights for it, and the adapter brings none (modules_to_save)")
    if faults:
        raise InvalidAdapter(f"{stored.where}: does not fit the base{listed(faults)}")


def _check_blocks(adapted: Adapted, base: BaseModel, count: int) -> None:
    """Refuse what would be trained below the last blocks: biases and whole modules are asked for in all at once."""
    trained = list(dict.fromkeys(parameter.module for parameter in adapted.layout.parameters))
    last = set(last_blocks(base.model, adapted.model.targeted_module_names, count).among(trained))
    below = [module for module in trained if module not in last]
    if below:
        raise UnsupportedModel(
            f"--split {count} trains in the last {count} block(s) only, and these would be trained below them; take "
            f"--bias lora_only in place of all, and leave them out of --modules-to-save{listed(below)}"
        )


def _check_layers(model: nn.Module) -> None:
    from peft.tuners.lora import Conv2d, Embedding, Linear, LoraLayer

    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    faults = [
        f"{name}: {type(module).__name__}"
        for name, module in layers.items()
        if type(module) not in (Linear, Embedding, Conv2d)
    ]
    # A depthwise A would be as large as the kernel that it adapts, and its gradient has no ONNX operator.
    faults += [
        f"{name}: a convolution in {module.get_base_layer().groups} groups"
        for name, module in layers.items()
        if isinstance(module, Conv2d) and module.get_base_layer().groups != 1
    ]
    if faults:
        raise UnsupportedModel(
            f"LoRA is supported on linear layers, embeddings and convolutions in one group only{listed(faults)}"
        )


def _saved(model: Any) -> dict[str, torch.Tensor]:
    """Return the tensors that PEFT would save."""
    from peft import get_peft_model_state_dict

    with quiet_loading():  # PEFT takes the bias of a lora_B for a damaged matrix
        # A targeted embedding would bring its frozen base along; an adapter holds only what is trained.
        saved: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
        return saved


def _keys(model: Any) -> dict[str, str]:
    """Return PEFT key → parameter name in the model's order, by the identity of the tensors that PEFT would save."""
    for name, parameter in model.named_parameters():
        if ".original_module." in name:
            parameter.requires_grad_(False)  # bias="all" would train the unused original of a saved module, too
    by_storage: dict[int, str] = {}
    for key, tensor in _saved(model).items():
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
