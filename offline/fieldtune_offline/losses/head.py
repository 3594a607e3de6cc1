"""The head of a language model, where its logits can be computed outside of the model."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fieldtune_offline.losses.cross_entropy import CHUNK_ROWS, STORED, chunked_cross_entropy
from fieldtune_offline.precisions.holding import held_matrix


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class FrozenHead:
    """A linear layer that is not trained, after which the model does nothing to the logits.

    Attributes:
        layer: the layer.
    """

    layer: nn.Linear

    def sums(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the summed loss and how many targets were likeliest: hidden (n, width), targets (n,)."""
        held = held_matrix(self.layer)
        recipe, parts = (STORED, (self.layer.weight,)) if held is None else (held.precision.recipe, held.parts)
        rows = self.layer.weight.shape[0]
        loss, correct, _ = chunked_cross_entropy(hidden, targets, parts, self.layer.bias, recipe, rows, CHUNK_ROWS)
        return loss, correct

    @contextlib.contextmanager
    def passed_over(self) -> Iterator[None]:
        """Let the layer return what it is given, so that a model's logits are its last hidden states."""
        attributes = vars(self.layer)
        own = {name: attributes[name] for name in ("forward",) if name in attributes}
        attributes["forward"] = lambda hidden: hidden
        try:
            yield
        finally:
            del attributes["forward"]
            attributes.update(own)


def frozen_head(model: Any) -> FrozenHead | None:
    """Return the head of a model whose logits are just what a frozen linear layer returns, else None.

    The model is asked: whatever it does to the logits afterwards (scales them, caps them) gives another tensor, or
    changes that one in place, which torch counts.
    """
    head = model.get_output_embeddings()
    plain = nn.Linear in (type(head), getattr(head, "kind", None))  # a held layer is of a class of its own
    if not plain or head.weight.requires_grad or (head.bias is not None and head.bias.requires_grad):
        return None
    seen: list[tuple[torch.Tensor, int]] = []
    hook = head.register_forward_hook(lambda _module, _inputs, output: seen.append((output, output._version)))
    try:
        with torch.no_grad():
            logits = model(input_ids=torch.zeros((1, 2), dtype=torch.int64), use_cache=False).logits
    finally:
        hook.remove()
    untouched = len(seen) == 1 and logits is seen[0][0] and logits._version == seen[0][1]
    return FrozenHead(head) if untouched else None
