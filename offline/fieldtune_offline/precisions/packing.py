"""Packing the frozen base of a model: linear layers in the precision asked for, embeddings and heads in int8."""

import dataclasses
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fieldtune_offline.precisions import operators
from fieldtune_offline.precisions.int8 import Int8
from fieldtune_offline.precisions.interface import Precision

_GATHERED = Int8()
"""Of embeddings, whose rows are gathered, and of the head of a language model, which is often the same matrix."""
_HELD = "packed_as"
"""The attribute of a packed module that holds precision, rows and columns."""


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
class PackedMatrix:
    """The packed matrix of a module: one row an output feature, or a token.

    Attributes:
        precision: of it.
        parts: the module's buffers, in the order of ``Precision.part_names``.
        rows: of the matrix.
        columns: of the matrix.
    """

    precision: Precision
    parts: tuple[torch.Tensor, ...]
    rows: int
    columns: int

    def unpacked(self) -> torch.Tensor:
        """Return the float32 matrix (rows, columns)."""
        return self.precision.unpack(self.parts, self.rows, self.columns)


def packed_matrix(module: nn.Module) -> PackedMatrix | None:
    """Return the packed matrix of a module, whose ``weight`` is not to be read then; None of one that is not packed."""
    held: tuple[Precision, int, int] | None = getattr(module, _HELD, None)
    if held is None:
        return None
    precision, rows, columns = held
    return PackedMatrix(precision, tuple(getattr(module, name) for name in precision.part_names), rows, columns)


def weight_of(module: Any) -> torch.Tensor:
    """Return the float32 weight of a module as its class has it, made anew where it is packed."""
    packed = packed_matrix(module)
    if packed is None:
        weight: torch.Tensor = module.weight
        return weight
    return packed.unpacked().T if _is_transposed(module) else packed.unpacked()


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
        setattr(module, _HELD, (used, *matrix.shape))
        # The module stays what it is: PEFT and the model's own code know it by its class.
        module.forward = types.MethodType(_gather if isinstance(module, nn.Embedding) else _multiply, module)
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


def _gather(self: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    packed = packed_matrix(self)
    assert packed is not None
    rows: torch.Tensor = operators.packed_rows(ids, *packed.parts)
    return rows


def _multiply(self: Any, x: torch.Tensor) -> torch.Tensor:
    packed = packed_matrix(self)
    assert packed is not None
    product: torch.Tensor = operators.packed_product(x, list(packed.parts), packed.precision.recipe, packed.rows)
    return product if self.bias is None else product + self.bias
