"""Spans that answer questions: searched for in the windows of a context as transformers' script for SQuAD does."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from fieldtune.serving import softmax
from fieldtune.tasks.answering.windows import NO_ANSWER, QuestionSet

Logits: TypeAlias = npt.NDArray[np.float32]
"""One for each token of a window, shape (tokens or more,): those of padding are not looked at."""
N_BEST = 20
MAX_ANSWER_LENGTH = 30


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

    def add(self, window: int, start_logits: Logits, end_logits: Logits) -> None:
        """Take the logits of a window."""
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


def _likeliest(logits: Logits, count: int) -> npt.NDArray[np.int64]:
    return np.argsort(logits, kind="stable")[::-1][:count]
