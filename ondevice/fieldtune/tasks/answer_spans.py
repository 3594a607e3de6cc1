"""Spans that answer questions: searched for in the windows of a text, and scored as SQuAD's script does."""

import collections
import dataclasses
import re
import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from fieldtune.bundle import FloatArray
from fieldtune.data import (
    Batch,
    EncodedSet,
    IntArray,
)
from fieldtune.serving import softmax
from fieldtune.tasks.interface import Figure, Outputs

Offsets: TypeAlias = npt.NDArray[np.int32]
N_BEST = 20
MAX_ANSWER_LENGTH = 30
NO_ANSWER = 0
"""The token that stands for "no answer here": the first one, [CLS] of BERT and its like."""


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


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Which question a window is of, and where each of its tokens stands.

    ``offsets``: characters of the context, int32, shape (tokens, 2); -1 for what is not of the context.
    """

    question: int
    offsets: Offsets


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class QuestionSet(EncodedSet):
    """Questions with their contexts, encoded: ``examples`` are windows, ``windows`` says of what each is one."""

    questions: tuple[QuestionExample, ...]
    windows: tuple[Window, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A possible answer: a part of the context with its characters (``context[start:end]``), or None for no answer."""

    answer: str | None
    start: int | None
    end: int | None
    probability: float

    def record(self) -> dict[str, object]:
        """Return it for programs."""
        return dataclasses.asdict(self)

    def line(self) -> str:
        """Return it for people, the place behind it."""
        said = f"{100 * self.probability:.1f} %"
        if self.answer is None:
            return f"no answer {said}"
        return f"{' '.join(self.answer.split())} {said} [{self.start}:{self.end}]"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FoundAnswer:
    """The answer to a question, and what else it might be.

    Attributes:
        best: the answer.
        n_best: the likeliest ones, best score first; their probabilities have the sum 1.
    """

    best: Candidate
    n_best: tuple[Candidate, ...]

    @property
    def truncated(self) -> bool:
        """False: windows cover the whole context."""
        return False

    def record(self) -> Mapping[str, object]:
        """Return the answer with its place and probability, and the n-best list."""
        return {**self.best.record(), "n_best": [candidate.record() for candidate in self.n_best]}

    def lines(self, most: int) -> list[str]:
        """Return the answer, then the others."""
        others = [candidate for candidate in self.n_best if candidate is not self.best]
        return [candidate.line() for candidate in (self.best, *others)[:most]]


def normalized(answer: str) -> str:
    """Return an answer as SQuAD's script compares it: in lower case, without punctuation, articles and extra space."""
    kept = "".join(letter for letter in answer.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def exact_match(answer: str, right: Sequence[str]) -> float:
    """Return 1 if an answer is one of the right ones once both are normalized, else 0. "" stands for no answer."""
    return float(any(normalized(answer) == normalized(one) for one in _counting(right)))


def f1(answer: str, right: Sequence[str]) -> float:
    """Return the harmonic mean of precision and recall of an answer's words, the best over all right answers.

    Where either has no words, it is 1 if both have none, else 0 (SQuAD 2.0's script).
    """
    return max(_f1(normalized(answer).split(), normalized(one).split()) for one in _counting(right))


def _counting(right: Sequence[str]) -> Sequence[str]:
    """Return the right answers of which something is left; no answer where nothing is, as SQuAD 2.0's script has it."""
    return [one for one in right if normalized(one)] or [""]


def _f1(found: Sequence[str], right: Sequence[str]) -> float:
    if not found or not right:
        return float(found == right)
    shared = (collections.Counter(found) & collections.Counter(right)).total()
    return 2 * shared / (len(found) + len(right))


class QuestionMeter:
    """Decodes the answers of an evaluation and compares them with the right ones.

    "No answer" is one of them where the set has questions without an answer.
    """

    def __init__(self, encoded: EncodedSet) -> None:
        if not isinstance(encoded, QuestionSet):
            raise TypeError("question answering measures what its own encode returned only")
        self._questions, self._search = encoded.questions, SpanSearch(encoded)

    def add(self, indices: IntArray, batch: Batch, outputs: Outputs) -> None:
        """Look for answers in a batch's start_logits and end_logits, float32, shape (batch, sequence)."""
        for row, index in enumerate(indices):
            self._search.add(int(index), outputs["start_logits"][row], outputs["end_logits"][row])

    def figures(self, loss: float) -> tuple[Figure, ...]:
        """Return exact match and F1; where some questions have no answer, also of each kind alone."""
        unanswerable = any(question.answers == () for question in self._questions)
        scores: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for index, question in enumerate(self._questions):
            if question.answers is not None:
                right = [span.text for span in question.answers]
                answer = self._search.answer(index, unanswerable=unanswerable).best.answer or ""
                scores[bool(right)].append((exact_match(answer, right), f1(answer, right)))
        exact, overlap = np.mean(scores[True] + scores[False], axis=0)
        figures = [
            Figure(name="exact_match", value=float(exact), unit="%"),
            Figure(name="f1", value=float(overlap), unit="%", title="F1"),
        ]
        if scores[True] and scores[False]:
            answered, none = (float(np.mean(scores[kind], axis=0)[1]) for kind in (True, False))
            figures.append(Figure(name="f1_answerable", value=answered, unit="%", title="F1, answerable"))
            figures.append(Figure(name="f1_unanswerable", value=none, unit="%", title="no answer, unanswerable"))
        return tuple(figures)


class _Scored(NamedTuple):
    """The score of an answer, the sum of its two logits, and its characters; (0, 0) of no answer."""

    score: float
    start: int
    end: int


class SpanSearch:
    """Gathers the best spans of each question's windows, as transformers' script for SQuAD does.

    Args:
        encoded: the questions.
        n_best: likeliest starts and ends that are combined in a window, and answers that are kept of a question.
        max_answer_length: in tokens.
    """

    def __init__(
        self, encoded: QuestionSet, *, n_best: int = N_BEST, max_answer_length: int = MAX_ANSWER_LENGTH
    ) -> None:
        self._encoded, self._n_best, self._longest = encoded, n_best, max_answer_length
        self._spans: list[dict[int, list[_Scored]]] = [{} for _ in encoded.questions]
        self._none: list[float | None] = [None] * len(encoded.questions)

    def add(self, window: int, start_logits: FloatArray, end_logits: FloatArray) -> None:
        """Take the logits of a window, float32, shape (tokens or more,): those of padding are not looked at."""
        question, offsets = self._encoded.windows[window].question, self._encoded.windows[window].offsets
        start_logits, end_logits = start_logits[: len(offsets)], end_logits[: len(offsets)]
        # A context without the answer says so in each of its windows: one that does not speaks against it.
        none, known = float(start_logits[NO_ANSWER] + end_logits[NO_ANSWER]), self._none[question]
        self._none[question] = none if known is None else min(none, known)
        starts, ends = (_likeliest(logits, self._n_best) for logits in (start_logits, end_logits))
        first, last = (grid.ravel() for grid in np.meshgrid(starts, ends, indexing="ij"))
        inside = (offsets[first, 0] >= 0) & (offsets[last, 0] >= 0)
        sound = inside & (first <= last) & (last - first < self._longest)
        first, last = first[sound], last[sound]
        scores = start_logits[first] + end_logits[last]
        best = np.argsort(-scores, kind="stable")[: self._n_best]
        self._spans[question][window] = [
            _Scored(float(scores[one]), int(offsets[first[one], 0]), int(offsets[last[one], 1])) for one in best
        ]

    def answer(self, question: int, *, unanswerable: bool) -> FoundAnswer:
        """Return the answer to a question all of whose windows were added.

        Args:
            question: its index.
            unanswerable: whether "no answer" may be it. If not, it is only where no span can be.
        """
        windows = self._spans[question]
        spans = [span for window in sorted(windows) for span in windows[window]]
        none = _Scored(self._none[question] or 0.0, 0, 0)
        allowed = unanswerable or not spans
        # Sorting is stable: of equal scores the one of the earlier window comes first.
        kept = sorted([*spans, none] if allowed else spans, key=lambda span: -span.score)[: self._n_best]
        if allowed and none not in kept:
            kept.append(none)
        context = self._encoded.questions[question].context
        likely = softmax(np.array([span.score for span in kept]))
        candidates = [
            Candidate(answer=None, start=None, end=None, probability=float(probability))
            if span is none
            else Candidate(
                answer=context[span.start : span.end], start=span.start, end=span.end, probability=float(probability)
            )
            for span, probability in zip(kept, likely, strict=True)
        ]
        # Of equal scores an answer goes before none.
        answers = [index for index, candidate in enumerate(candidates) if candidate.answer]
        best = answers[0] if answers else 0
        if allowed and none.score > kept[best].score:
            best = kept.index(none)
        return FoundAnswer(best=candidates[best], n_best=tuple(candidates))


def _likeliest(logits: FloatArray, count: int) -> IntArray:
    return np.argsort(logits, kind="stable")[::-1][:count]
