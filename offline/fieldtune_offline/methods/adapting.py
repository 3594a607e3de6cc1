"""The adapter on the torch model, and where each of its tensors lies in theta."""

import copy
import dataclasses
import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fieldtune.adapters import PREFIX, Adapter, read_adapter
from fieldtune.bundle import BaseWeight, Layout, PackedWeight, ParameterSpec
from fieldtune.errors import InvalidAdapter, UnsupportedModel, listed
from fieldtune_offline.adapted import Adapted
from fieldtune_offline.methods.choosing import chosen_method
from fieldtune_offline.methods.interface import Method
from fieldtune_offline.methods.last_blocks import last_blocks
from fieldtune_offline.methods.peft_config import check_config, check_names, check_targeted, new_config, stored_config
from fieldtune_offline.methods.table import method_named
from fieldtune_offline.models import BaseModel
from fieldtune_offline.precisions.holding import held_matrix
from fieldtune_offline.quiet import quiet_loading
from fieldtune_offline.spec import BuildSpec
from fieldtune_offline.tasks.interface import Task


def adapt(base: BaseModel, spec: BuildSpec, task: type[Task]) -> Adapted:
    """Put the adapter on the base: a new one, or an existing one read from a PEFT directory.

    Raises:
        ValueError: a method that is unknown, or settings that it does not have.
        UnsupportedModel: a setting that is not supported, or targets that match nothing or no layer of a known kind.
        InvalidAdapter: ``spec.adapter`` is not a PEFT adapter for this base.
    """
    method = chosen_method(spec)
    model = _stored(base, spec, task, method) if spec.adapter is not None else _new(base, spec, task, method)
    model.eval()
    method.check_layers(model)
    names = _keys(model)
    adapted = Adapted(model, model.peft_config["default"], method.name, names, _layout(model, names, method))
    if spec.adapter is not None:
        _check_stored(adapted, base, read_adapter(spec.adapter))
    if isinstance(spec.split, int):
        _check_blocks(adapted, base, spec.split)
    return adapted


def _new(base: BaseModel, spec: BuildSpec, task: type[Task], method: Method) -> Any:
    from peft import get_peft_model

    config = new_config(method, spec.method, task, base.new_modules)
    check_config(method, config, str(spec.method.peft_config or "the adapter"))
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
                model = get_peft_model(model.unload(), method.narrowed(asked, named))
    except (ValueError, TypeError, NotImplementedError, re.error) as error:
        raise UnsupportedModel(f"{spec.model}: PEFT refuses the adapter: {error}") from error
    check_targeted(model.targeted_module_names, asked)
    config = model.peft_config["default"]
    config.base_model_name_or_path = spec.model
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, set):
            setattr(config, field.name, sorted(value))  # a set is written in another order each time
    if config.modules_to_save:
        # PEFT adds the usual names of heads to the list, whether they are in it or not.
        config.modules_to_save = list(dict.fromkeys(config.modules_to_save))
    return model


def _stored(base: BaseModel, spec: BuildSpec, task: type[Task], method: Method) -> Any:
    from peft import PeftModel

    assert spec.adapter is not None
    check_config(method, stored_config(method, spec.adapter, task), str(spec.adapter))
    try:
        with quiet_loading():
            return PeftModel.from_pretrained(base.model, str(spec.adapter), is_trainable=True)
    except (RuntimeError, ValueError, TypeError, OSError, KeyError) as error:
        raise InvalidAdapter(f"{spec.adapter}: does not fit {spec.model}: {error}") from error


def _check_stored(adapted: Adapted, base: BaseModel, stored: Adapter) -> None:
    """Refuse an adapter whose tensors are not exactly those that are trained, which PEFT lets pass."""
    held = set(stored.tensors.tensors)
    faults = [f"{key}: missing" for key in adapted.names if key not in held]
    known = _saved(adapted.model)
    faults += [f"{key}: belongs to nothing that is trained" for key in sorted(held - set(known))]
    saved = [f".{p.module}." for p in adapted.layout.parameters if _is_saved(adapted.names[p.key])]
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
        biases = method_named(adapted.method).biases
        advice = f"take --bias {biases[-1]} in place of all, and " if biases else ""
        raise UnsupportedModel(
            f"--split {count} trains in the last {count} block(s) only, and these would be trained below them; {advice}"
            f"leave them out of --modules-to-save{listed(below)}"
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


def _is_saved(name: str) -> bool:
    """Whether a parameter of the model is in a module that is trained whole."""
    return ".modules_to_save." in name


def _layout(model: Any, names: Mapping[str, str], method: Method) -> Layout:
    parameters: list[ParameterSpec] = []
    offset = 0
    tensors = dict(model.named_parameters())
    for key, name in names.items():
        own = _own(model, name)
        specification = _specification(model, key, name, offset) if own is None else _fed(method, key, offset, *own)
        assert specification.shape == tuple(tensors[name].shape)
        parameters.append(specification)
        offset += specification.size
    return Layout(tuple(parameters))


def _own(model: Any, name: str) -> tuple[str, Any, str, torch.Tensor] | None:
    """Return the layer that a parameter of the method's own belongs to, with its path, and the parameter's part of it.

    None for what belongs to the base.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    if _is_saved(name):
        return None
    path = name.split(".")
    for end in range(len(path) - 1, 0, -1):
        layer = model.get_submodule(".".join(path[:end]))
        if isinstance(layer, BaseTunerLayer):
            if path[end] == "base_layer":
                return None
            part = ".".join(step for step in path[end:] if step != "default")
            return ".".join(path[:end]).removeprefix(PREFIX), layer, part, model.get_parameter(name)
    return None


def _fed(
    method: Method, key: str, offset: int, module: str, layer: Any, part: str, tensor: torch.Tensor
) -> ParameterSpec:
    """Return the specification of a tensor of the method's own."""
    facts = method.facts(layer, part, tensor)
    weight = None if facts.weight_axes is None else BaseWeight(name=f"{module}.weight", axes=facts.weight_axes)
    return ParameterSpec(
        key=key,
        module=module,
        axes=facts.axes,
        shape=tuple(tensor.shape),
        offset=offset,
        decay=facts.decay,
        transposed=facts.transposed,
        scaled=facts.scaled,
        optional=facts.optional,
        weight=weight,
    )


def _specification(model: Any, key: str, name: str, offset: int) -> ParameterSpec:
    """Return the specification of a tensor that takes the place of one of the base's."""
    owner, _, leaf = name.rpartition(".")
    tensor = model.get_parameter(name)
    module = key.removeprefix(PREFIX)
    for suffix in (".weight", ".bias", ".base_layer"):
        module = module.removesuffix(suffix)
    return ParameterSpec(
        key=key,
        module=module,
        axes=_axes(model.get_submodule(owner), leaf, tensor.ndim),
        shape=tuple(tensor.shape),
        offset=offset,
        decay=tensor.ndim >= 2,  # biases and norms are vectors
        optional=not _is_saved(name),
        replaces=checkpoint_name(key),
    )


def checkpoint_name(key: str) -> str:
    """Return the name that a checkpoint has for a saved tensor or a bias, by its PEFT key."""
    return key.removeprefix(PREFIX).replace(".base_layer.", ".").replace(".modules_to_save.", ".")


def _axes(owner: nn.Module, leaf: str, count: int) -> tuple[str, ...]:
    from transformers.pytorch_utils import Conv1D

    if count == 1:
        return ("features",)
    if leaf == "weight" and count == 2:
        for kind, axes in (
            (nn.Linear, ("out_features", "in_features")),
            (nn.Embedding, ("num_embeddings", "embedding_dim")),
            (Conv1D, ("in_features", "out_features")),
        ):
            if isinstance(owner, kind):
                return axes
    if isinstance(owner, nn.Conv2d) and count == 4:
        return ("out_channels", "in_channels", "height", "width")
    return tuple(f"axis_{number}" for number in range(count))


def with_weights_named(adapted: Adapted, held: Mapping[str, torch.Tensor]) -> Layout:
    """Return the layout with the names that the written weights have: tied ones have one name.

    Args:
        adapted: the model.
        held: name → tensor of everything that is written to graphs/weights.safetensors.
    """
    names = {tensor.data_ptr(): name for name, tensor in held.items()}
    parameters: list[ParameterSpec] = []
    for p in adapted.layout.parameters:
        if p.weight is not None:
            base = adapted.model.get_submodule(f"{PREFIX}{p.module}").get_base_layer()
            weight = _named_weight(base, p.weight, names)
            if weight is None:
                raise UnsupportedModel(f"{p.module}: no graph reads its weight as the checkpoint has it")
            parameters.append(dataclasses.replace(p, weight=weight))
        else:
            parameters.append(p)
    return Layout(tuple(parameters))


def _named_weight(base: nn.Module, weight: BaseWeight, names: Mapping[int, str]) -> BaseWeight | None:
    """Return a weight by its name in the file, given the names of all tensors by where they lie; None for none."""
    packed = held_matrix(base)
    if packed is None:
        name = names.get(base.get_parameter("weight").data_ptr())
        return None if name is None else dataclasses.replace(weight, name=name)
    found = {
        names.get(tensor.data_ptr(), "").removesuffix(f".{part}")
        for part, tensor in zip(packed.precision.part_names, packed.parts, strict=True)
    }
    name = found.pop()
    if found or not name:
        return None
    # Matrices are packed with a row for each output, also those that are stored the other way round.
    axes = weight.axes if isinstance(base, nn.Embedding) else ("out_features", "in_features")
    shape = PackedWeight(recipe=packed.precision.recipe, rows=packed.rows, columns=packed.columns)
    return BaseWeight(name=name, axes=axes, packed=shape)
