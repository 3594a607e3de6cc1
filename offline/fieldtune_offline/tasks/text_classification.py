"""Text classification: one label per text, by cross-entropy over a head's logits."""

from collections.abc import Mapping

import torch
from torch import nn

from fieldtune_offline.tasks.classification import Classification, loss_outputs
from fieldtune_offline.tasks.interface import masked_text


class _Loss(nn.Module):
    def __init__(self, model: nn.Module, *, with_logits: bool) -> None:
        super().__init__()
        self.model = model
        self.with_logits = with_logits

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return loss_outputs(logits, labels, with_logits=self.with_logits)


class TextClassification(Classification):
    """The task around an adapted AutoModelForSequenceClassification with two or more labels."""

    name = "text-classification"
    peft_type = "SEQ_CLS"
    inputs = (("input_ids", ("batch", "sequence")), ("attention_mask", ("batch", "sequence")))

    def pads(self) -> Mapping[str, int]:
        """Return what fills up inputs."""
        return {**super().pads(), "input_ids": int(self._model.config.pad_token_id)}

    def features(self, batch: int, sequence: int, seed: int) -> dict[str, torch.Tensor]:
        """Return random ids with padding, and their mask."""
        return masked_text(self._model, batch, sequence, seed)

    def loss_module(self, *, with_logits: bool) -> nn.Module:
        """Return what takes ids, mask and labels."""
        return _Loss(self._model, with_logits=with_logits)
