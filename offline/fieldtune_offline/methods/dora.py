"""DoRA on the dev box (Liu et al. 2024): (W x + s · B A x) · m / ‖W + s · B A‖ + b, in a form that is cheap to train.

PEFT makes W + s · B A for its norm, by products with an identity matrix, and adds three multiples of the output. Here
the norm's square is ‖W‖² + 2 s · (W Aᵀ) ∘ B + s² · (B A Aᵀ) ∘ B, summed over the rank, of which ‖W‖² is a constant, and
the output is scaled once. The norm is detached, as in PEFT and the paper (§4.3): it has no backward pass.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import nn

from fieldtune_offline.adapted import Adapted
from fieldtune_offline.methods.interface import Facts, ServingInput, ones_unfed
from fieldtune_offline.methods.lora import Lora
from fieldtune_offline.passes.fold_factors import fold_dora
from fieldtune_offline.passes.merged_tensor import Fold
from fieldtune_offline.precisions import operators
from fieldtune_offline.precisions.holding import held_matrix, weight_of
from fieldtune_offline.spec import MethodSpec

_MAGNITUDE = "lora_magnitude_vector"
_SQUARES = "base_squares"


class Dora(Lora):
    """Low-rank pairs, and a magnitude for each output of a layer."""

    name = "dora"
    honoured = Lora.honoured | {"use_dora"}
    official = False

    @property
    def fold(self) -> Fold | None:
        """W + s · B A, each output of length m."""
        return fold_dora

    def fields(self, spec: MethodSpec) -> dict[str, Any]:
        """Return LoRA's, with magnitudes."""
        return {**super().fields(spec), "use_dora": True}

    def facts(self, layer: Any, part: str, tensor: torch.Tensor) -> Facts:
        """Return the facts of a magnitude, or of an A or B."""
        if not part.startswith(_MAGNITUDE):
            return super().facts(layer, part, tensor)
        weight = _axes(layer.get_base_layer())
        axes = {"out_channels": ("one", "out_channels", "height", "width"), "embedding_dim": ("embedding_dim",)}
        # Decay would draw a magnitude to 0; it starts at the length of the base's.
        return Facts(axes=axes.get(_outputs(weight), ("out_features",)), decay=False, weight_axes=weight)

    def start(self, model: nn.Module) -> None:
        """Set each magnitude to ‖W + s · B A‖, so that the adapter changes nothing while B is 0."""
        for layer in self.layers(model).values():
            base = layer.get_base_layer()
            if not isinstance(base, nn.Conv2d):  # has its weight, and its magnitude of PEFT
                a, b = (tensor.detach() for tensor in _pair(layer))
                magnitude = layer.lora_magnitude_vector["default"].weight
                lengths = torch.linalg.norm(_rows(base).detach() + layer.scaling["default"] * (b @ a), dim=1)
                magnitude.data.copy_(lengths.reshape(magnitude.shape))

    @contextlib.contextmanager
    def training(self, model: nn.Module) -> Iterator[None]:
        """Give the layers the form above."""
        layers = list(self.layers(model).values())
        for layer in layers:
            squares = _rows(layer.get_base_layer()).detach().pow(2).sum(1)  # one matrix at a time is unpacked
            layer.lora_magnitude_vector["default"].register_buffer(_SQUARES, squares, persistent=False)
        try:
            with _replaced(layers, _training_scale):
                yield
        finally:
            for layer in layers:
                delattr(layer.lora_magnitude_vector["default"], _SQUARES)

    @contextlib.contextmanager
    def serving(self, model: nn.Module) -> Iterator[None]:
        """Take m / ‖W + s · B A‖ in place of the magnitude, and alpha / rank out of the graph: both are fed."""
        with super().serving(model), _replaced(self.layers(model).values(), _served_scale):
            yield

    @contextlib.contextmanager
    def reference(self, model: nn.Module) -> Iterator[None]:
        """Have PEFT find the weights of packed layers, which it reads for their norms: one layer's at a time."""
        with contextlib.ExitStack() as stack:
            for layer in self.layers(model).values():
                if held_matrix(layer.get_base_layer()) is not None:
                    stack.enter_context(_weight_while_called(layer))
            yield

    def serving_inputs(self, adapted: Adapted) -> list[ServingInput]:
        """Return LoRA's inputs, and a factor for each output, which is 1 where nothing is fed."""
        scaled = {p.key for p in adapted.layout.parameters if p.weight is not None}
        return ones_unfed(super().serving_inputs(adapted), scaled)


METHOD = Dora()


def _axes(base: nn.Module) -> tuple[str, ...]:
    """Return the names of the axes of a layer's own weight."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(base, nn.Embedding):
        return ("num_embeddings", "embedding_dim")
    if isinstance(base, nn.Conv2d):
        return ("out_channels", "in_channels", "height", "width")
    return ("in_features", "out_features") if isinstance(base, Conv1D) else ("out_features", "in_features")


def _outputs(axes: tuple[str, ...]) -> str:
    return next(name for name in axes if name in ("out_features", "out_channels", "embedding_dim"))


def _outputs_last(base: nn.Module) -> bool:
    axes = _axes(base)
    return axes[-1] == _outputs(axes)


def _rows(base: Any) -> torch.Tensor:
    """Return a weight with a row for each output."""
    weight = weight_of(base)
    return weight.T if _outputs_last(base) else weight.flatten(1)


def _pair(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    if layer.lora_embedding_A:
        return layer.lora_embedding_A["default"], layer.lora_embedding_B["default"]
    return layer.lora_A["default"].weight, layer.lora_B["default"].weight


def _training_scale(layer: Any) -> torch.Tensor:
    """Return m / ‖W + s · B A‖, the norm detached; 0 of an output without weights, such as a padding token's logit."""
    magnitude, base, scale = layer.lora_magnitude_vector["default"], layer.get_base_layer(), layer.scaling["default"]
    a, b = (tensor.detach().flatten(1) for tensor in _pair(layer))
    crossed = _crossed(base, a, b)
    added = ((b @ (a @ a.T)) * b).sum(1)
    squares = getattr(magnitude, _SQUARES) + 2 * scale * crossed + scale * scale * added
    lengths = squares.clamp_min(0).sqrt().detach()
    inverse = torch.where(lengths > 0, 1 / lengths, torch.zeros_like(lengths))
    factor: torch.Tensor = magnitude.weight * inverse.reshape(magnitude.weight.shape)
    return factor


def _crossed(base: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return (W Aᵀ) ∘ B summed over the rank; of a packed W exactly, for the squares beside it are those of its values.

    No weight is transposed in a graph: A goes to the side that W's inputs are on.
    """
    packed = held_matrix(base)
    if packed is not None:
        parts, recipe, transposed = list(packed.parts), packed.precision.recipe, not isinstance(base, nn.Embedding)
        product = operators.exact_product(a, parts, recipe, packed.rows, packed.columns, transposed)
        crossed: torch.Tensor = (product * b.T).sum(0)
        return crossed
    return ((a @ base.weight) * b.T).sum(0) if _outputs_last(base) else ((_rows(base) @ a.T) * b).sum(1)


def _served_scale(layer: Any) -> torch.Tensor:
    """Return what is fed under the magnitude's key."""
    fed: torch.Tensor = layer.lora_magnitude_vector["default"].weight
    return fed


@contextlib.contextmanager
def _weight_while_called(layer: Any) -> Iterator[None]:
    """Have a packed layer's ``weight`` be the unpacked one for as long as a call of PEFT's layer lasts."""
    base = layer.get_base_layer()
    held = base.weight.data

    def unpack(*_: object) -> None:
        base.weight.data = weight_of(base)

    def leave(*_: object) -> None:
        base.weight.data = held

    handles = layer.register_forward_pre_hook(unpack), layer.register_forward_hook(leave, always_call=True)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _replaced(layers: Collection[Any], scale_of: Callable[[Any], torch.Tensor]) -> Iterator[None]:
    """Let layers compute (W x + s · B A x) · g + b."""
    try:
        for layer in layers:
            layer.forward = _forward(layer, scale_of)
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer: Any, scale_of: Callable[[Any], torch.Tensor]) -> Callable[..., torch.Tensor]:
    base = layer.get_base_layer()

    def embedding(ids: torch.Tensor) -> torch.Tensor:
        a, b = _pair(layer)
        update = (layer._embed(ids, a.T) @ b.T) * layer.scaling["default"]
        factor = layer._get_embed_scale()
        total: torch.Tensor = base(ids) + (update if factor is None else update * factor)
        return total * scale_of(layer)

    def convolution(x: torch.Tensor) -> torch.Tensor:
        total = base._conv_forward(x, base.weight, None) + _update(layer, x)
        return _with_bias(total * scale_of(layer), base.bias, (1, -1, 1, 1))

    def linear(x: torch.Tensor) -> torch.Tensor:
        return _with_bias((_product(base, x) + _update(layer, x)) * scale_of(layer), base.bias, (-1,))

    if isinstance(base, nn.Embedding):
        return embedding
    return convolution if isinstance(base, nn.Conv2d) else linear


def _product(base: Any, x: torch.Tensor) -> torch.Tensor:
    """Return W x."""
    packed = held_matrix(base)
    if packed is not None:
        product: torch.Tensor = operators.packed_product(x, list(packed.parts), packed.precision.recipe, packed.rows)
        return product
    return x @ base.weight if _outputs_last(base) else nn.functional.linear(x, base.weight)


def _with_bias(total: torch.Tensor, bias: torch.Tensor | None, shape: tuple[int, ...]) -> torch.Tensor:
    return total if bias is None else total + bias.reshape(shape)


def _update(layer: Any, x: torch.Tensor) -> torch.Tensor:
    update: torch.Tensor = layer.lora_B["default"](layer.lora_A["default"](x)) * layer.scaling["default"]
    return update
