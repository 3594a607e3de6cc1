"""What classifications of texts and of images share: cross-entropy over a head's logits, and labels to trace with."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fieldtune.bundle.manifest import IGNORE_INDEX
from fieldtune_offline.tasks import Batch, Traceable

Inputs = Sequence[tuple[str, tuple[str | None, ...]]]
_LABELS = ("labels", ("batch",))


def loss_outputs(logits: torch.Tensor, labels: torch.Tensor, *, with_logits: bool) -> tuple[torch.Tensor, ...]:
    """Return ``loss_sum`` and ``weight`` (float32 scalars) and, if asked for, the logits (batch, labels)."""
    loss_sum = nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")
    weight = (labels != IGNORE_INDEX).sum().to(torch.float32)
    return (loss_sum, weight, logits) if with_logits else (loss_sum, weight)


class Classification:
    """A task with one label for each input; subclasses say what goes in and how the model takes it."""

    inputs: Inputs
    """Name and axis names of what goes in, without the labels."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._labels = int(model.config.num_labels)

    def features(self, batch: int, sequence: int, seed: int) -> dict[str, torch.Tensor]:
        """Return inputs of the model, without labels."""
        raise NotImplementedError

    def loss_module(self, *, with_logits: bool) -> nn.Module:
        """Return a module whose ``forward`` takes the inputs and labels and returns ``loss_outputs``."""
        raise NotImplementedError

    def logits_module(self) -> nn.Module:
        """Return a module whose ``forward`` takes the inputs and returns the logits in a tuple."""
        raise NotImplementedError

    def batch(self, batch: int, sequence: int, seed: int) -> dict[str, torch.Tensor]:
        """Return a batch in which the last of several rows has no label."""
        generator = torch.Generator().manual_seed(seed + 1)
        labels = torch.randint(0, self._labels, (batch,), generator=generator)
        if batch > 2:
            labels[-1] = IGNORE_INDEX
        return {**self.features(batch, sequence, seed), "labels": labels}

    def training(self, batch: int, sequence: int) -> Traceable:
        """Return what computes ``loss_sum`` and ``weight``."""
        return self._traceable(batch, sequence, ("loss_sum", "weight"), with_logits=False)

    def evaluation(self, batch: int, sequence: int) -> Traceable:
        """Return what computes ``loss_sum``, ``weight`` and ``logits`` (float32, shape (batch, labels))."""
        return self._traceable(batch, sequence, ("loss_sum", "weight", "logits"), with_logits=True)

    def inference(self, batch: int, sequence: int) -> Traceable:
        """Return what computes ``logits`` (float32, shape (batch, labels))."""
        return Traceable(self.logits_module(), "model", self.features(batch, sequence, 0), self.inputs, ("logits",))

    def inference_batches(self, batch: int, sequence: int, seed: int) -> list[dict[str, torch.Tensor]]:
        """Return one batch of inputs."""
        return [self.features(batch, sequence, seed)]

    def inference_reference(self, feeds: Batch) -> dict[str, torch.Tensor]:
        """Return the model's logits."""
        return {"logits": self._model(**feeds).logits}

    def reference_loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return transformers' mean loss times the number of labels."""
        weight = (batch["labels"] != IGNORE_INDEX).sum()
        return self._model(**batch).loss * weight, weight

    def _traceable(self, batch: int, sequence: int, outputs: Sequence[str], *, with_logits: bool) -> Traceable:
        module = self.loss_module(with_logits=with_logits)
        return Traceable(module, "model", self.batch(batch, sequence, 0), (*self.inputs, _LABELS), outputs)
