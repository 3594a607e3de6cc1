"""Extractive question answering: cross-entropy over the tokens that an answer may begin with, and end with."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fieldtune.bundle import IGNORE_INDEX, Manifest
from fieldtune.errors import UnsupportedModel
from fieldtune_offline.tasks.interface import GRADIENT, Arrays, Batch, Part, Task, Traceable, masked_text

_GRID = ("batch", "sequence")
_POSITIONS = (("start_positions", ("batch",)), ("end_positions", ("batch",)))
_LOGITS = ("start_logits", "end_logits")


class _Loss(nn.Module):
    """As transformers has it, padding counts among the tokens: a row's loss depends on the longest row beside it."""

    def __init__(self, model: nn.Module, *, with_logits: bool) -> None:
        super().__init__()
        self.model = model
        self.with_logits = with_logits

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        start_positions: torch.Tensor,
        end_positions: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask, **types)
        logits = (outputs.start_logits, outputs.end_logits)
        sums = [
            nn.functional.cross_entropy(scores, positions, ignore_index=IGNORE_INDEX, reduction="sum")
            for scores, positions in zip(logits, (start_positions, end_positions), strict=True)
        ]
        weight = (start_positions != IGNORE_INDEX).sum().to(torch.float32)
        loss_sum = (sums[0] + sums[1]) / 2
        return (loss_sum, weight, *logits) if self.with_logits else (loss_sum, weight)


class QuestionAnswering(Task):
    """The task around an adapted AutoModelForQuestionAnswering; token types go in where the model tells them apart."""

    name = "question-answering"
    peft_type = "QUESTION_ANS"

    @classmethod
    def check_config(cls, config: Any, model: str) -> None:
        """Check that the head gives two logits a token."""
        if config.num_labels != 2:
            raise UnsupportedModel(
                f"{model}: {config.num_labels} labels; question answering has 2 logits a token, of its being the first "
                "and the last one of the answer: set num_labels to 2 in config.json, or take the id2label out of it"
            )

    def batch(self, batch: int, sequence: int, seed: int) -> dict[str, torch.Tensor]:
        """Return a batch with spans anywhere before the padding; the last of several rows does not count."""
        features = self._features(batch, sequence, seed)
        generator = torch.Generator().manual_seed(seed + 1)
        lengths = features["attention_mask"].sum(1)
        start, length = torch.rand(batch, generator=generator), torch.rand(batch, generator=generator)
        starts = (start * lengths).to(torch.int64)
        ends = starts + (length * (lengths - starts)).to(torch.int64)
        if batch > 2:
            starts[-1] = ends[-1] = IGNORE_INDEX
        return {**features, "start_positions": starts, "end_positions": ends}

    def graphs(self, batch: int, sequence: int) -> dict[str, Traceable | Part]:
        """Return what trains, what evaluates and what serves ``start_logits`` and ``end_logits``.

        Both are float32, shape (batch, sequence).
        """
        labelled, pads = self.batch(batch, sequence, 0), self._pads()
        features = list(self._features(batch, sequence, 0))
        given = tuple((name, _GRID) for name in features)
        losses, logits = _Loss(self._model, with_logits=False), _Loss(self._model, with_logits=True)
        inputs, sums = (*given, *_POSITIONS), ("loss_sum", "weight")
        return {
            GRADIENT: Traceable(losses, "model", labelled, inputs, sums, pads),
            "eval": Traceable(logits, "model", labelled, inputs, (*sums, *_LOGITS), pads),
            "infer": Part(features, _LOGITS),
        }

    def inference_batches(self, batch: int, sequence: int, seed: int) -> Iterable[dict[str, torch.Tensor]]:
        """Return one batch of inputs."""
        return [self._features(batch, sequence, seed)]

    def inference_reference(self, feeds: Batch) -> dict[str, torch.Tensor]:
        """Return the model's logits."""
        outputs = self._model(**feeds)
        return {"start_logits": outputs.start_logits, "end_logits": outputs.end_logits}

    def reference_loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return transformers' mean loss times the number of rows that count."""
        sequence = batch["input_ids"].shape[1]
        # transformers takes a negative position for the first token, and one behind the last for a row without labels.
        positions = {name: batch[name].masked_fill(batch[name] == IGNORE_INDEX, sequence) for name, _ in _POSITIONS}
        weight = (batch["start_positions"] != IGNORE_INDEX).sum()
        return self._model(**{**batch, **positions}).loss * weight, weight

    @classmethod
    def noise_labels(
        cls, rng: np.random.Generator, manifest: Manifest, input_ids: npt.NDArray[np.int64] | None, *, masked: bool
    ) -> Arrays:
        """Return the ends of a span, or none where it is masked."""
        assert input_ids is not None
        start, end = sorted(rng.integers(0, len(input_ids), 2))
        return {
            "start_positions": np.array(IGNORE_INDEX if masked else start, np.int64),
            "end_positions": np.array(IGNORE_INDEX if masked else end, np.int64),
        }

    def _features(self, batch: int, sequence: int, seed: int) -> dict[str, torch.Tensor]:
        """Return random ids with padding, their mask, and two types of tokens if the model tells them apart."""
        text = masked_text(self._model, batch, sequence, seed)
        if getattr(self._model.config, "type_vocab_size", 0) > 1:
            second = torch.arange(sequence) >= (sequence + 1) // 3
            text["token_type_ids"] = second.to(torch.int64) * text["attention_mask"]
        return text

    def _pads(self) -> Mapping[str, int]:
        ignored = {name: IGNORE_INDEX for name, _ in _POSITIONS}
        return {"input_ids": int(self._model.config.pad_token_id), **ignored}
