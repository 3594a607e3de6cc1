"""Packing the frozen base of a model: linear layers in the precision asked for, embeddings and heads in int8."""

import dataclasses
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from fieldtune_offline.precisions import operators
from fieldtune_offline.precisions.int8 import Int8
from fieldtune_offline.precisions.interface import Precision
from fieldtune_offline.precisions.table import precision_of

_RECIPE = "fieldtune_recipe"
"""Attribute of a packed layer."""
_GATHERED = Int8()
"""Of embeddings, whose rows are gathered, and of the head of a language model, which is often the same matrix."""


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


@dataclasses.dataclass(frozen=True, slots=True)
class PackedForm:
    """How a layer's matrix is packed.

    Attributes:
        recipe: of its precision.
        parts: the tensors that it is packed into.
    """

    recipe: str
    parts: tuple[torch.Tensor, ...]


def packed_form(module: nn.Module) -> PackedForm | None:
    """Return how a layer is packed; None where it is in float32."""
    recipe = getattr(module, _RECIPE, None)
    if recipe is None:
        return None
    return PackedForm(recipe, tuple(getattr(module, name) for name in precision_of(recipe).part_names))


def pack_base(model: Any, precision: Precision, report: Callable[[int, int], None] = lambda *_: None) -> Packing:
    """Pack the frozen matrices of a model in place; from then on it computes with what they stand for.

    Args:
        model: a peft.PeftModel, or any module; what requires a gradient stays as it is.
        precision: of linear layers.
        report: called with how many matrices are packed and how many there are.
    """
    matrices = _frozen(model)
    head = _head(model)
    gathered = {id(layer.weight) for _, layer in matrices if layer is head or isinstance(layer, nn.Embedding)}
    packed: dict[str, str] = {}
    integer = False
    kept: dict[str, str] = {}
    done: dict[int, tuple[torch.Tensor, ...]] = {}
    for number, (name, module) in enumerate(matrices):
        report(number, len(matrices))
        weight: torch.Tensor = module.weight
        reason = "a convolution" if weight.ndim != 2 else None
        if reason is None:
            used = _GATHERED if id(weight) in gathered else precision
            transposed = _is_transposed(module)
            matrix = weight.detach().T.contiguous() if transposed else weight.detach()
            reason = used.refusal(*matrix.shape)
        if reason is not None:
            kept[_title(name)] = reason
            continue
        if id(weight) not in done:
            done[id(weight)] = used.pack(matrix)
            restored = used.unpack(done[id(weight)], *matrix.shape)
            weight.data.copy_(restored.T if transposed else restored)
        for part, tensor in zip(used.part_names, done[id(weight)], strict=True):
            module.register_buffer(part, tensor, persistent=False)
        # The module stays what it is: PEFT and the model's own code know it by its class.
        setattr(module, _RECIPE, used.recipe)
        module.forward = types.MethodType(_forward(module, used, matrix.shape), module)
        packed[_title(name)] = used.recipe
        integer = integer or (used.integer and not isinstance(module, nn.Embedding))
    return Packing(precision.recipe, packed, kept, integer)


def _frozen(model: Any) -> list[tuple[str, Any]]:
    """Return the layers whose weights are multiplied with or gathered from and are not trained, by their names."""
    from transformers.pytorch_utils import Conv1D

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


def _is_transposed(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def _title(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".base_layer", "")


def _forward(module: nn.Module, precision: Precision, shape: Sequence[int]) -> Callable[..., torch.Tensor]:
    names, recipe = precision.part_names, precision.recipe
    rows = shape[0]

    def gather(self: Any, ids: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = operators.packed_rows(ids, *(getattr(self, name) for name in names))
        return result

    def multiply(self: Any, x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = operators.packed_product(x, [getattr(self, name) for name in names], recipe, rows)
        return product if self.bias is None else product + self.bias

    return gather if isinstance(module, nn.Embedding) else multiply
