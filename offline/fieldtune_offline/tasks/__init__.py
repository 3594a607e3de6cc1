"""What each task trains, evaluates and serves: as modules to trace, with the batches to trace them at."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

Batch = Mapping[str, torch.Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class Traceable:
    """A module and what it is traced with.

    Attributes:
        module: ``forward(**batch)`` returns a tuple of tensors.
        model_path: name of the attribute that holds the adapted model.
        batch: example tensors by the module's argument names; values may be nested tuples of tensors.
        inputs: name and axis names of each tensor of ``batch``, flattened.
        outputs: a name for each tensor that ``forward`` returns, and names for its axes.
    """

    module: nn.Module
    model_path: str
    batch: Mapping[str, Any]
    inputs: Sequence[tuple[str, tuple[str | None, ...]]]
    outputs: Sequence[str]


class Task(Protocol):
    """One task: three modules around the same adapted model, and a reference for parity."""

    def batch(self, batch: int, sequence: int, seed: int) -> dict[str, torch.Tensor]:
        """Return a batch with padding and masked labels: int64 tensors (batch, sequence) and labels."""

    def training(self, batch: int, sequence: int) -> Traceable:
        """Return what computes ``loss_sum`` and ``weight`` (both float32 scalars)."""

    def evaluation(self, batch: int, sequence: int) -> Traceable:
        """Return what computes ``loss_sum``, ``weight`` and what a metric needs."""

    def inference(self, batch: int, sequence: int) -> Traceable:
        """Return what serves."""

    def inference_batches(self, batch: int, sequence: int, seed: int) -> list[dict[str, torch.Tensor]]:
        """Return inputs for infer.onnx by graph input name, to compare at."""

    def inference_reference(self, feeds: Batch) -> dict[str, torch.Tensor]:
        """Return transformers' own answer for such inputs, by graph output name."""

    def reference_loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the summed loss (differentiable) and its weight by transformers' own loss, not the traced module's."""


def masked_text(model: nn.Module, batch: int, sequence: int, seed: int) -> dict[str, torch.Tensor]:
    """Return random ids (int64, shape (batch, sequence)) with right padding in every other row, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = int(model.config.get_text_config().vocab_size)  # type: ignore[operator, union-attr]
    ids = torch.randint(0, vocabulary, (batch, sequence), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(0, batch, 2):
        mask[row, sequence - (1 + row % max(1, sequence // 2)) :] = 0
    return {"input_ids": ids, "attention_mask": mask}
