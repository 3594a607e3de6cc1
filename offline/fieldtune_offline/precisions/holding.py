"""Layers that hold their matrix as the parts of a precision, and compute with what it stands for.

The parts are buffers, which may be mapped from a file, and nothing of float32 stays in memory: a product unpacks the
matrix and drops it. The parameter ``weight`` keeps its shape and dtype, which models and PEFT ask for, and no memory;
what reads its values gets NaN.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from fieldtune.errors import UnsupportedModel
from fieldtune_offline.precisions import operators
from fieldtune_offline.precisions.interface import Precision
from fieldtune_offline.precisions.stored import Stored
from fieldtune_offline.precisions.table import precision_of

_STORED = Stored()
_TOLERANCE = 1e-5
"""Of a layer with code of its own, relative to its largest output."""


@dataclasses.dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix in parts.

    Attributes:
        precision: what it is packed in.
        parts: its tensors, in the order of ``precision.part_names``.
        rows: one an output feature, or one a token.
        columns: of the matrix.
    """

    precision: Precision
    parts: tuple[torch.Tensor, ...]
    rows: int
    columns: int

    def unpacked(self) -> torch.Tensor:
        """Return what it stands for: float32, shape (rows, columns)."""
        return self.precision.unpack(self.parts, self.rows, self.columns)


class _Held(nn.Module):
    """What the held kinds of layers have in common."""

    kind: type[nn.Module]
    recipe: str
    shape: tuple[int, int]

    def matrix(self) -> Matrix:
        precision = precision_of(self.recipe)
        return Matrix(precision, tuple(getattr(self, name) for name in precision.part_names), *self.shape)


def _product(module: Any, x: torch.Tensor) -> torch.Tensor:
    matrix = module.matrix()
    product: torch.Tensor = operators.packed_product(x, list(matrix.parts), module.recipe, matrix.rows)
    return product if module.bias is None else product + module.bias


class _Linear(_Held, nn.Linear):
    kind = nn.Linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _product(self, x)


class _Conv1D(_Held, Conv1D):
    kind = Conv1D

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _product(self, x)


class _Embedding(_Held, nn.Embedding):
    kind = nn.Embedding

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        held = self.matrix()
        if held.precision.name == _STORED.name:
            return held.parts[0][ids].to(torch.float32)
        rows: torch.Tensor = operators.packed_rows(ids, *held.parts)
        return rows


_KINDS: tuple[type[_Held], ...] = (_Linear, _Conv1D, _Embedding)


def is_transposed(module: nn.Module) -> bool:
    """Whether a layer's weight has a column, not a row, for each output."""
    return isinstance(module, Conv1D)


def matrix_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Go through the layers with a matrix that can be held, by their names.

    Attention in one module of torch reads the weight of its last layer itself: that one cannot.
    """
    of_attention = {id(child.out_proj) for child in model.modules() if isinstance(child, nn.MultiheadAttention)}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D | nn.Embedding) and id(module) not in of_attention:
            yield name, module


def held_matrix(module: nn.Module) -> Matrix | None:
    """Return the matrix that a layer holds in parts; None of one that has a weight in float32."""
    return module.matrix() if isinstance(module, _Held) else None


def weight_of(module: Any) -> torch.Tensor:
    """Return a layer's weight as it lies in float32, whether the layer holds it in parts or not."""
    matrix = held_matrix(module)
    if matrix is None:
        weight: torch.Tensor = module.weight.detach()
        return weight
    return matrix.unpacked().T if is_transposed(module) else matrix.unpacked()


def hold_base(model: nn.Module, packed: Mapping[str, Matrix] | None = None) -> None:
    """Let the frozen layers of a model hold their matrices as they are stored.

    Those that are held already stay as they are.

    Args:
        model: whose weights may be in bfloat16 or float16, and mapped from files.
        packed: layers' names → matrices that the checkpoint has packed already.

    Raises:
        UnsupportedModel: a layer of a packed matrix does not compute with it.
    """
    given = packed or {}
    done: dict[int, tuple[nn.Parameter, Matrix]] = {}
    for name, module in list(matrix_layers(model)):
        weight = module.weight
        if isinstance(module, _Held) or weight.requires_grad:
            continue
        if id(weight) not in done:
            matrix = given.get(name) or _stored(module)
            done[id(weight)] = (_placeholder(weight), matrix)
        placeholder, matrix = done[id(weight)]
        if _has_own_forward(module) and not _computes_with_it(module, matrix, placeholder):
            if name in given:
                raise UnsupportedModel(f"{name}: {type(module).__name__} does not compute as a layer of its kind does")
            continue
        _hold(module, matrix, placeholder)


def exchange(module: Any, matrix: Matrix) -> None:
    """Let a held layer hold other parts of the same shape."""
    _drop(module)
    _take(module, matrix)


def release(model: nn.Module, modules: Iterable[Any]) -> None:
    """Give held layers of a model their weights in float32 back, as parameters that require gradients as before.

    Tied ones have one weight, as before; a layer that is tied to one of them goes with it.
    """
    freed = {id(module.weight) for module in modules}
    weights: dict[int, nn.Parameter] = {}
    held = [layer for _, layer in matrix_layers(model) if held_matrix(layer) is not None]
    for module in held:
        key = id(module.weight)
        if key not in freed:
            continue
        if key not in weights:
            weights[key] = nn.Parameter(weight_of(module).clone(), requires_grad=module.weight.requires_grad)
        _let_go(module, weights[key])


def release_trained(model: nn.Module) -> None:
    """Give the layers that are trained whole their weights back."""
    release(model, [layer for _, layer in matrix_layers(model) if layer.weight.requires_grad])


def release_all(model: nn.Module) -> None:
    """Give all layers their weights back."""
    release(model, [layer for _, layer in matrix_layers(model)])


def _stored(module: Any) -> Matrix:
    weight = module.weight.detach()
    matrix = weight.T if is_transposed(module) else weight
    return Matrix(_STORED, (matrix,), *matrix.shape)


def _placeholder(weight: nn.Parameter) -> nn.Parameter:
    values = torch.full((1,) * weight.ndim, float("nan")).expand(weight.shape)
    return nn.Parameter(values, requires_grad=weight.requires_grad)


def _hold(module: Any, matrix: Matrix, placeholder: nn.Parameter) -> None:
    # A layer stays of its class, and of its name: PEFT and the model's own code know it by that.
    kind: Any = type(module)  # a class hashes; mypy asks its instances
    module.__class__ = _held_class(kind)
    module.weight = placeholder
    _take(module, matrix)


def _take(module: Any, matrix: Matrix) -> None:
    module.recipe, module.shape = matrix.precision.recipe, (matrix.rows, matrix.columns)
    for name, part in zip(matrix.precision.part_names, matrix.parts, strict=True):
        module.register_buffer(name, part, persistent=False)


def _drop(module: Any) -> None:
    for name in module.matrix().precision.part_names:
        delattr(module, name)


def _let_go(module: Any, weight: nn.Parameter) -> None:
    """Make a held layer what it was, with a weight."""
    _drop(module)
    del module.recipe, module.shape
    module.__class__, module.weight = module.kind, weight


@functools.cache
def _held_class(kind: type[nn.Module]) -> type[nn.Module]:
    held = next(held for held in _KINDS if issubclass(kind, held.kind))
    # What a class computes around its kind's product, such as a scaled embedding, it goes on computing.
    bases = (held,) if kind is held.kind else (kind, held)
    return type(kind.__name__, bases, {"kind": kind, "__module__": kind.__module__})


def _has_own_forward(module: nn.Module) -> bool:
    kind = next(held.kind for held in _KINDS if isinstance(module, held.kind))
    return type(module).forward is not kind.forward


def _computes_with_it(module: Any, matrix: Matrix, placeholder: nn.Parameter) -> bool:
    """Whether a layer with code of its own computes the same with held parts as with its weight."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(module, nn.Embedding):
        given = torch.arange(min(2, matrix.rows))
    else:
        given = torch.randn(2, matrix.columns, generator=generator)
    weight = module.weight
    with torch.no_grad():
        unpacked = matrix.unpacked()
        module.weight = nn.Parameter(unpacked.T if is_transposed(module) else unpacked, requires_grad=False)
        expected = module(given)
        _hold(module, matrix, placeholder)
        found = module(given)
    _let_go(module, weight)
    return bool((found - expected).abs().max() <= _TOLERANCE * expected.abs().max())
