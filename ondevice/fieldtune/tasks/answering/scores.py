"""Exact match and F1 of answers, as SQuAD's script has them (Rajpurkar et al. 2016 and 2018)."""

import collections
import re
import string
from collections.abc import Sequence

import numpy as np

from fieldtune.bundle import Batch
from fieldtune.data import EncodedSet, IntArray
from fieldtune.tasks.answering.spans import SpanSearch
from fieldtune.tasks.answering.windows import QuestionSet
from fieldtune.tasks.interface import Figure, Outputs


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


def _f1(given: Sequence[str], right: Sequence[str]) -> float:
    if not given or not right:
        return float(given == right)
    shared = (collections.Counter(given) & collections.Counter(right)).total()
    return 2 * shared / (len(given) + len(right))


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
