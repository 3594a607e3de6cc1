"""Token classification: a tag a word, by cross-entropy over a head's logits at the labelled tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fieldtune.bundle import IGNORE_INDEX, Manifest
from fieldtune.errors import UnsupportedModel
from fieldtune.tasks.tagging.entities import scheme_of
from fieldtune_offline.tasks.interface import Arrays
from fieldtune_offline.tasks.text_classification import TextClassification


class _Loss(nn.Module):
    def __init__(self, model: nn.Module, *, with_logits: bool) -> None:
        super().__init__()
        self.model = model
        self.with_logits = with_logits

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        flat = logits.reshape(-1, logits.shape[-1])
        loss_sum = nn.functional.cross_entropy(flat, labels.reshape(-1), ignore_index=IGNORE_INDEX, reduction="sum")
        weight = (labels != IGNORE_INDEX).sum().to(torch.float32)
        return (loss_sum, weight, logits) if self.with_logits else (loss_sum, weight)


class TokenClassification(TextClassification):
    """The task around an adapted AutoModelForTokenClassification whose labels are BIO or IOBES."""

    name = "token-classification"
    peft_type = "TOKEN_CLS"
    label_input = ("labels", ("batch", "sequence"))

    @classmethod
    def check_labels(cls, labels: Sequence[str]) -> None:
        """Check names of labels, if there are any: they are of a scheme."""
        super().check_labels(labels)
        if labels:
            _check_scheme(labels, "--labels")

    @classmethod
    def check_config(cls, config: Any, model: str) -> None:
        """Check that the model's labels are of a scheme."""
        _check_scheme(cls.labels_of(config), f"{model}: config.json")

    def batch(self, batch: int, sequence: int, seed: int) -> dict[str, torch.Tensor]:
        """Return a batch in which two of three tokens and the last of several rows have no label, nor has padding."""
        features = self.features(batch, sequence, seed)
        generator = torch.Generator().manual_seed(seed + 1)
        labels = torch.randint(0, int(self._model.config.num_labels), (batch, sequence), generator=generator)
        labels[:, torch.arange(sequence) % 3 != 1] = IGNORE_INDEX
        if batch > 2:
            labels[-1] = IGNORE_INDEX
        return {**features, "labels": labels.masked_fill(features["attention_mask"] == 0, IGNORE_INDEX)}

    def loss_module(self, *, with_logits: bool) -> nn.Module:
        """Return what takes ids, mask and labels."""
        return _Loss(self._model, with_logits=with_logits)

    @classmethod
    def noise_labels(
        cls, rng: np.random.Generator, manifest: Manifest, input_ids: npt.NDArray[np.int64] | None, *, masked: bool
    ) -> Arrays:
        """Return a tag on every other token, none where all is masked."""
        assert input_ids is not None
        tags = rng.integers(0, len(manifest.task.labels), len(input_ids))
        bare = masked | (np.arange(len(input_ids)) % 2 == 0)
        return {"labels": np.where(bare, IGNORE_INDEX, tags)}


def _check_scheme(labels: Sequence[str], where: str) -> None:
    try:
        scheme_of(labels)
    except ValueError as error:
        raise UnsupportedModel(f"{where}: {error}; name them with --labels") from error
