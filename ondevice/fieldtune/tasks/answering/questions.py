"""Questions, the texts that they are asked of, and the parts of these that answer them."""

import dataclasses
from typing import NamedTuple


class Span(NamedTuple):
    """A part of a context, and the character at which it begins."""

    text: str
    start: int


class Question(NamedTuple):
    """What is asked, and of which text."""

    question: str
    context: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class QuestionExample:
    """A question with its context.

    Attributes:
        question: what is asked.
        context: where the answer is looked for.
        answers: all that are right, the one to learn from first; empty where the context has no answer; None where it
            is to be found out.
        where: its ``file:line``.
    """

    question: str
    context: str
    answers: tuple[Span, ...] | None = None
    where: str = dataclasses.field(default="", compare=False)
