"""Text classification: one label per text, by cross-entropy over a head's logits."""

import torch
from torch import nn

from fieldtune.manifest import IGNORE_INDEX
from fieldtune_offline.tasks import Batch, Traceable, masked_text

_TEXT = (("input_ids", ("batch", "sequence")), ("attention_mask", ("batch", "sequence")))
_LABELS = ("labels", ("batch",))


class _Loss(nn.Module):
    def __init__(self, model: nn.Module, *, with_logits: bool) -> None:
        super().__init__()
        self.model = model
        self.with_logits = with_logits

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        loss_sum = nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")
        weight = (labels != IGNORE_INDEX).sum().to(torch.float32)
        return (loss_sum, weight, logits) if self.with_logits else (loss_sum, weight)


class _Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.model(input_ids=input_ids, attention_mask=attention_mask).logits,)


class TextClassification:
    """The task around an adapted AutoModelForSequenceClassification with two or more labels."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._labels = int(model.config.num_labels)  # type: ignore[arg-type, union-attr]

    def batch(self, batch: int, sequence: int, seed: int) -> dict[str, torch.Tensor]:
        """Return a batch in which the last of several rows has no label."""
        generator = torch.Generator().manual_seed(seed + 1)
        labels = torch.randint(0, self._labels, (batch,), generator=generator)
        if batch > 2:
            labels[-1] = IGNORE_INDEX
        return {**masked_text(self._model, batch, sequence, seed), "labels": labels}

    def training(self, batch: int, sequence: int) -> Traceable:
        """Return what computes ``loss_sum`` and ``weight``."""
        module = _Loss(self._model, with_logits=False)
        return Traceable(module, "model", self.batch(batch, sequence, 0), (*_TEXT, _LABELS), ("loss_sum", "weight"))

    def evaluation(self, batch: int, sequence: int) -> Traceable:
        """Return what computes ``loss_sum``, ``weight`` and ``logits`` (float32, shape (batch, labels))."""
        module = _Loss(self._model, with_logits=True)
        outputs = ("loss_sum", "weight", "logits")
        return Traceable(module, "model", self.batch(batch, sequence, 0), (*_TEXT, _LABELS), outputs)

    def inference(self, batch: int, sequence: int) -> Traceable:
        """Return what computes ``logits`` (float32, shape (batch, labels))."""
        text = masked_text(self._model, batch, sequence, 0)
        return Traceable(_Logits(self._model), "model", text, _TEXT, ("logits",))

    def inference_batches(self, batch: int, sequence: int, seed: int) -> list[dict[str, torch.Tensor]]:
        """Return one batch of text."""
        return [masked_text(self._model, batch, sequence, seed)]

    def inference_reference(self, feeds: Batch) -> dict[str, torch.Tensor]:
        """Return the model's logits."""
        return {"logits": self._model(**feeds).logits}

    def reference_loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return transformers' mean loss times the number of labels."""
        weight = (batch["labels"] != IGNORE_INDEX).sum()
        return self._model(**batch).loss * weight, weight
