"""Entities by the tags of their words, in BIO (IOB2) or IOBES, and their scores as the package seqeval has them.

Entities are read from tags in two ways: leniently (``entities``, seqeval's default mode, which is that of the script
conlleval of CoNLL-2000), where an entity also begins at an ``I-`` that nothing precedes; and strictly
(``strict_entities``), where tags that the scheme forbids name none.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from fieldtune.bundle import IGNORE_INDEX
from fieldtune.data import Batch, IntArray
from fieldtune.errors import quoted
from fieldtune.tasks.interface import Figure, Outputs

OUTSIDE = "O"


_LABEL = re.compile("O|[BIES]-(?:[^-]|[^-].*[^-])")
"""No hyphen at either end of a type, where the two modes of seqeval would not see the same one."""


Scheme: TypeAlias = Literal["BIO", "IOBES"]


class Entity(NamedTuple):
    """An entity: its type, and its first and last word."""

    kind: str
    first: int
    last: int


def scheme_of(labels: Sequence[str]) -> Scheme:
    """Return the scheme of labels ``O``, ``B-TYPE``, ``I-TYPE`` and, of IOBES, ``E-TYPE`` and ``S-TYPE``.

    Raises:
        ValueError: labels of neither; what is wrong with which is in the message.
    """
    expected = "expected O and, for each type, B-TYPE and I-TYPE (BIO), or B-, I-, E- and S-TYPE (IOBES)"
    strange = [label for label in labels if not _LABEL.fullmatch(label)]
    if strange or OUTSIDE not in labels or len(labels) < 2:
        what = quoted(strange) if strange else f"there is no {OUTSIDE}" if OUTSIDE not in labels else "there is only O"
        raise ValueError(f"labels of no scheme: {what}; {expected}")
    scheme: Scheme = "IOBES" if any(label[0] in "ES" for label in labels) else "BIO"
    needed = "BIES" if scheme == "IOBES" else "B"
    wanted = [f"{prefix}-{kind}" for kind in kinds_of(labels) for prefix in needed]
    missing = [label for label in wanted if label not in labels]
    if missing:
        raise ValueError(f"labels of {scheme} without {quoted(missing)}; {expected}")
    return scheme


def kinds_of(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the types of entities, in the order of the labels."""
    return tuple(dict.fromkeys(label[2:] for label in labels if label != OUTSIDE))


def entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities of a text's tags as seqeval's default mode reads them, in either scheme."""
    found: list[Entity] = []
    prefix, kind = OUTSIDE, ""
    for place, tag in enumerate(tags):
        before, kind_before = prefix, kind
        prefix, kind = tag[0], tag[2:]
        if prefix == OUTSIDE:
            continue
        if prefix in "BS" or before in "ESO" or kind != kind_before:
            found.append(Entity(kind, place, place))
        else:
            found[-1] = found[-1]._replace(last=place)
    return found


def strict_entities(tags: Sequence[str], scheme: Scheme) -> list[Entity]:
    """Return the entities of a text's tags as seqeval's strict mode reads them."""
    found: list[Entity] = []
    place = 0
    while place < len(tags):
        first, kind = place, tags[place][2:]
        opened = tags[place][0] == "B"
        place += 1
        while opened and place < len(tags) and tags[place] in (f"I-{kind}", f"E-{kind}"):
            opened = tags[place][0] == "I"
            place += 1
        closed = scheme == "BIO" or tags[place - 1][0] in "ES"
        if tags[first][0] in "BS" and closed:
            found.append(Entity(kind, first, place - 1))
    return found


def tags_of(found: Sequence[Entity], count: int, scheme: Scheme) -> list[str]:
    """Return the tags of a text of so many words."""
    tags = [OUTSIDE] * count
    for kind, first, last in found:
        prefixes = ["B", *"I" * (last - first)]
        if scheme == "IOBES":
            prefixes[-1] = "E" if last > first else "S"
        tags[first : last + 1] = [f"{prefix}-{kind}" for prefix in prefixes]
    return tags


@dataclasses.dataclass(slots=True)
class Tally:
    """How many entities were expected, how many found, and how many of these are right in type and both ends."""

    expected: int = 0
    found: int = 0
    right: int = 0

    def add(self, expected: Sequence[Entity], found: Sequence[Entity]) -> None:
        """Count a text."""
        self.expected += len(expected)
        self.found += len(found)
        self.right += len(set(expected) & set(found))

    def scores(self) -> tuple[float, float, float]:
        """Return precision, recall and F1; each is 0 where it would be 0 / 0, as in seqeval."""
        precision = self.right / self.found if self.found else 0.0
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

    def compare(self, expected: Sequence[str], found: Sequence[str]) -> None:
        """Count the entities of one text's tags."""
        self._lenient.add(entities(expected), entities(found))
        self._strict.add(strict_entities(expected, self._scheme), strict_entities(found, self._scheme))

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
