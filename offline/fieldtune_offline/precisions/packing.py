"""Packing the frozen base of a model: linear layers in the precision asked for, embeddings and heads in int8."""

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from fieldtune_offline.precisions.holding import Matrix, exchange, held_matrix, hold_base, release
from fieldtune_offline.precisions.int8 import Int8
from fieldtune_offline.precisions.interface import Parts, Precision
from fieldtune_offline.progress import Count

_GATHERED = Int8()
"""Of embeddings, whose rows are gathered, and of the head of a language model, which is often the same matrix."""
_OWN_CODE = "its weight is read by code of its own"


@dataclasses.dataclass(frozen=True, slots=True)
class Packing:
    """What was packed.

    Attributes:
        recipe: of the linear layers.
        matrices: modules by their names in the checkpoint, with the recipe of each.
        kept: modules with a matrix of their own that stay in float32, with the reason.
        integer: whether any product is of integers.
    """

    recipe: str
    matrices: dict[str, str]
    kept: dict[str, str]
    integer: bool


def pack_base(
    model: Any,
    precision: Precision,
    count: Count = lambda *_: None,
    keep: Callable[[Parts], Parts] = lambda parts: parts,
) -> Packing:
    """Pack the frozen matrices of a model in place, one at a time; from then on it computes with what they stand for.

    A matrix that the checkpoint has packed in the same way is taken as it is.

    Args:
        model: a peft.PeftModel, or any module; what requires a gradient stays as it is.
        precision: of linear layers.
        count: told how many layers are done, and how many there are.
        keep: takes the parts of a matrix and returns them, written to a file, say, and mapped from there.
    """
    hold_base(model)
    frozen = _frozen(model)
    head = _head(model)
    gathered = {id(layer.weight) for _, layer in frozen if layer is head or isinstance(layer, nn.Embedding)}
    packed: dict[str, str] = {}
    integer = False
    kept: dict[str, str] = {}
    done: dict[int, Matrix] = {}
    for number, (name, module) in enumerate(frozen):
        count(number, len(frozen))
        held = held_matrix(module)
        used = _GATHERED if id(module.weight) in gathered else precision
        reason = _OWN_CODE if isinstance(module, nn.Linear | nn.Embedding) else "a convolution"
        if held is not None:
            refused = used.refusal(held.rows, held.columns)
            if refused is not None:
                release(model, [module])
                held, reason = None, refused
        if held is None:
            kept[_title(name)] = reason
            continue
        key = id(module.weight)
        if key not in done:
            parts = held.parts
            if held.precision.recipe != used.recipe:
                parts = tuple(keep(used.pack(held.unpacked())))
            done[key] = Matrix(used, parts, held.rows, held.columns)
        exchange(module, done[key])
        packed[_title(name)] = used.recipe
        integer = integer or (used.integer and not isinstance(module, nn.Embedding))
    return Packing(precision.recipe, packed, kept, integer)


def _frozen(model: Any) -> list[tuple[str, Any]]:
    """Return the layers whose weights are multiplied with or gathered from and are not trained, by their names."""
    layers: list[tuple[str, Any]] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | Conv1D | nn.Embedding | nn.Conv2d) or module.weight.requires_grad:
            continue
        if "original_module" not in name.split("."):  # stands idle beside the copy that is saved with the adapter
            layers.append((name, module))
    return layers


def _head(model: Any) -> Any:
    """Return the layer that gives a language model's logits, without what a method has around it."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return getattr(head, "base_layer", head)


def _title(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".base_layer", "")
