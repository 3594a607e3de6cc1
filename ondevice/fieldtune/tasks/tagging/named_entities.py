"""The entities of a text that is asked about: by the logits of its tokens, and as people and programs see them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from fieldtune.serving import softmax
from fieldtune.tasks.tagging.entities import entities
from fieldtune.tasks.tagging.pieces import Aligned


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NamedEntity:
    """An entity that was found.

    Attributes:
        label: its type.
        text: its characters.
        start: its first character's place in the text.
        end: the place behind its last one.
        score: mean of its words' probabilities of the tags that they got.
    """

    label: str
    text: str
    start: int
    end: int
    score: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Entities:
    """The entities of a text, in its order.

    Attributes:
        entities: those that were found.
        truncated: whether the text was longer than the model takes, so that nothing was looked for in its end.
    """

    entities: tuple[NamedEntity, ...]
    truncated: bool

    def record(self) -> Mapping[str, object]:
        """Return the entities, each with its place, and whether the text was cut."""
        return {"entities": [dataclasses.asdict(entity) for entity in self.entities], "truncated": self.truncated}

    def lines(self, most: int) -> list[str]:
        """Return the entities, a line each; where there are more, the last line has all the others."""
        said = [
            f"{entity.label}: {entity.text} ({entity.start}-{entity.end}) {100 * entity.score:.1f} %"
            for entity in self.entities
        ]
        alone = said[: most - 1]
        return [*alone, *(["; ".join(said[most - 1 :])] if said[most - 1 :] else [])] or ["no entities"]


def named_in(text: str, aligned: Aligned, logits: Any, labels: Sequence[str]) -> tuple[NamedEntity, ...]:
    """Return the entities of a text by the logits of its tokens, float32, shape (sequence, labels)."""
    kept = [(word, piece) for word, piece in zip(aligned.words, aligned.pieces, strict=True) if piece >= 0]
    if not kept:
        return ()
    probabilities = softmax(logits[[piece for _, piece in kept]])
    tags, sure = [labels[int(index)] for index in probabilities.argmax(axis=-1)], probabilities.max(axis=-1)
    named: list[NamedEntity] = []
    for kind, first, last in entities(tags):
        start, end = kept[first][0][0], kept[last][0][1]
        score = float(sure[first : last + 1].mean())
        named.append(NamedEntity(label=kind, text=text[start:end], start=start, end=end, score=score))
    return tuple(named)
