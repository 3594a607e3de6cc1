"""Texts whose words have tags: words with a tag each, or characters with the spans that are entities."""

import dataclasses
from typing import NamedTuple, TypeAlias

from fieldtune.data import shortened


class Span(NamedTuple):
    """Characters ``start`` to ``end``, the last one not included, and the type of the entity that they are."""

    start: int
    end: int
    kind: str

    def said(self, text: str) -> str:
        """Say in a message which part of a text it is."""
        return f"span {self.start} to {self.end} ({shortened(text[self.start : self.end])})"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WordsExample:
    """Words and the indices of their tags; None where they are to be found out. ``where`` is its ``file:line``."""

    words: tuple[str, ...]
    tags: tuple[int, ...] | None = None
    where: str = dataclasses.field(default="", compare=False)

    @property
    def text(self) -> str:
        """The words with a space between, which is what the tokenizer is given: so words mean it the same as texts."""
        return " ".join(self.words)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SpansExample:
    """A text and its entities; None where they are to be found out. ``where`` is its ``file:line``."""

    text: str
    spans: tuple[Span, ...] | None = None
    where: str = dataclasses.field(default="", compare=False)


TaggedText: TypeAlias = WordsExample | SpansExample
