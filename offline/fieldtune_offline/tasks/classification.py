"""What classifications of texts and of images share: cross-entropy over a head's logits, and labels to trace with."""

import abc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fieldtune.bundle import IGNORE_INDEX, Manifest
from fieldtune.errors import UnsupportedModel
from fieldtune_offline.tasks.interface import GRADIENT, Arrays, Batch, Part, Task, Traceable

Input = tuple[str, tuple[str | None, ...]]


def loss_outputs(logits: torch.Tensor, labels: torch.Tensor, *, with_logits: bool) -> tuple[torch.Tensor, ...]:
    """Return ``loss_sum`` and ``weight`` (float32 scalars) and, if asked for, the logits (batch, labels)."""
    loss_sum = nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")
    weight = (labels != IGNORE_INDEX).sum().to(torch.float32)
    return (loss_sum, weight, logits) if with_logits else (loss_sum, weight)


class Classification(Task):
    """A task with one label for each input; subclasses say what goes in and how the model takes it."""

    labelled = True
    inputs: ClassVar[Sequence[Input]]
    """Name and axis names of what goes in, without the labels."""
    label_input: ClassVar[Input] = ("labels", ("batch",))
    """Name and axis names of the labels."""

    @classmethod
    def check_config(cls, config: Any, model: str) -> None:
        """Check that there are classes, one of them an example."""
        if config.num_labels < 2:
            raise UnsupportedModel(f"{model}: {config.num_labels} label(s); classification needs at least 2")
        if config.problem_type not in (None, "single_label_classification"):
            raise UnsupportedModel(
                f"{model}: problem_type is {config.problem_type}; only single_label_classification is supported"
            )

    @abc.abstractmethod
    def features(self, batch: int, sequence: int, seed: int) -> dict[str, torch.Tensor]:
        """Return inputs of the model, without labels."""

    @abc.abstractmethod
    def loss_module(self, *, with_logits: bool) -> nn.Module:
        """Return a module whose ``forward`` takes the inputs and labels and returns ``loss_outputs``."""

    def pads(self) -> Mapping[str, int]:
        """Return what fills up inputs."""
        return {"labels": IGNORE_INDEX}

    def batch(self, batch: int, sequence: int, seed: int) -> dict[str, torch.Tensor]:
        """Return a batch in which the last of several rows has no label."""
        generator = torch.Generator().manual_seed(seed + 1)
        labels = torch.randint(0, int(self._model.config.num_labels), (batch,), generator=generator)
        if batch > 2:
            labels[-1] = IGNORE_INDEX
        return {**self.features(batch, sequence, seed), "labels": labels}

    def graphs(self, batch: int, sequence: int) -> dict[str, Traceable | Part]:
        """Return what trains, what evaluates (``logits``: float32, their last axis the labels) and what serves them."""
        labelled, sums, pads = self.batch(batch, sequence, 0), ("loss_sum", "weight"), self.pads()
        inputs = (*self.inputs, self.label_input)
        losses, logits = self.loss_module(with_logits=False), self.loss_module(with_logits=True)
        return {
            GRADIENT: Traceable(losses, "model", labelled, inputs, sums, pads),
            "eval": Traceable(logits, "model", labelled, inputs, (*sums, "logits"), pads),
            "infer": Part([name for name, _ in self.inputs], ["logits"]),
        }

    def inference_batches(self, batch: int, sequence: int, seed: int) -> Iterable[dict[str, torch.Tensor]]:
        """Return one batch of inputs."""
        return [self.features(batch, sequence, seed)]

    def inference_reference(self, feeds: Batch) -> dict[str, torch.Tensor]:
        """Return the model's logits."""
        return {"logits": self._model(**feeds).logits}

    def reference_loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return transformers' mean loss times the number of labels."""
        weight = (batch["labels"] != IGNORE_INDEX).sum()
        return self._model(**batch).loss * weight, weight

    @classmethod
    def noise_labels(
        cls, rng: np.random.Generator, manifest: Manifest, input_ids: npt.NDArray[np.int64] | None, *, masked: bool
    ) -> Arrays:
        """Return a class, or none where it is masked."""
        return {"labels": np.array(IGNORE_INDEX if masked else rng.integers(0, len(manifest.task.labels)), np.int64)}
