"""Precision, recall and F1 of whole entities as the package seqeval has them, in its default and its strict mode."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from fieldtune.bundle import IGNORE_INDEX, Batch
from fieldtune.data import IntArray
from fieldtune.tasks.interface import Figure, Outputs
from fieldtune.tasks.tagging.entities import Entity, entities, scheme_of, strict_entities


@dataclasses.dataclass(slots=True)
class Tally:
    """How many entities were expected, how many guessed, and how many of these are right in type and both ends."""

    expected: int = 0
    guessed: int = 0
    right: int = 0

    def add(self, expected: Sequence[Entity], guessed: Sequence[Entity]) -> None:
        """Count a text."""
        self.expected += len(expected)
        self.guessed += len(guessed)
        self.right += len(set(expected) & set(guessed))

    def scores(self) -> tuple[float, float, float]:
        """Return precision, recall and F1; each is 0 where it would be 0 / 0, as in seqeval."""
        precision = self.right / self.guessed if self.guessed else 0.0
        recall = self.right / self.expected if self.expected else 0.0
        total = precision + recall
        return precision, recall, 2 * precision * recall / total if total else 0.0


class EntityMeter:
    """Compares the entities that the likeliest tags name with those of the labels.

    Args:
        labels: names of the tags in the order of the logits.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels, self._scheme = labels, scheme_of(labels)
        self._lenient, self._strict = Tally(), Tally()
        self._words = self._right = 0

    def add(self, indices: IntArray, batch: Batch, outputs: Outputs) -> None:
        """Count a batch by its logits, float32, shape (batch, sequence, labels)."""
        likeliest = outputs["logits"].argmax(axis=-1)
        for labels, guesses in zip(batch["labels"], likeliest, strict=True):
            counted = labels != IGNORE_INDEX
            self._words += int(np.count_nonzero(counted))
            self._right += int(np.count_nonzero(labels[counted] == guesses[counted]))
            self.compare(
                [self._labels[index] for index in labels[counted]], [self._labels[index] for index in guesses[counted]]
            )

    def compare(self, expected: Sequence[str], guessed: Sequence[str]) -> None:
        """Count the entities of one text's tags."""
        self._lenient.add(entities(expected), entities(guessed))
        self._strict.add(strict_entities(expected, self._scheme), strict_entities(guessed, self._scheme))

    def figures(self, loss: float) -> tuple[Figure, ...]:
        """Return F1, precision and recall of whole entities, first leniently, then strictly; and the right tags."""
        precision, recall, f1 = self._lenient.scores()
        strict_precision, strict_recall, strict_f1 = self._strict.scores()
        return (
            Figure(name="f1", value=f1, unit="%", title="F1"),
            Figure(name="precision", value=precision, unit="%"),
            Figure(name="recall", value=recall, unit="%"),
            Figure(name="strict_f1", value=strict_f1, unit="%", title="F1, strict"),
            Figure(name="strict_precision", value=strict_precision, unit="%", title="precision, strict"),
            Figure(name="strict_recall", value=strict_recall, unit="%", title="recall, strict"),
            Figure(name="token_accuracy", value=self._right / self._words if self._words else 0.0, unit="%"),
        )
