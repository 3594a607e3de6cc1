import dataclasses
import json
import math

import numpy as np
import pytest

from fieldtune.tasks.answering.questions import QuestionExample
from fieldtune.tasks.answering.spans import Candidate, FoundAnswer, SpanSearch
from fieldtune.tasks.answering.windows import QuestionSet, Window


def searched(logits, context="a b c", **settings):
    """A search over windows [CLS] a b c [SEP] of one question, with these start and end logits."""
    offsets = np.array([[-1, -1], [0, 1], [2, 3], [4, 5], [-1, -1]], np.int32)
    windows = tuple(Window(0, offsets) for _ in logits)
    encoded = QuestionSet(examples=(), questions=(QuestionExample(question="q", context=context),), windows=windows)
    search = SpanSearch(encoded, **settings)
    for index, (starts, ends) in enumerate(logits):
        search.add(index, np.array(starts, np.float32), np.array(ends, np.float32))
    return search


def said(answer):
    return [candidate.answer for candidate in answer.n_best]


def test_the_best_span_wins():
    # "c" begins and "a" ends best, which is no span; outside the context nothing counts.
    search = searched([([9, 1, 2, 4, 9], [9, 4, 1, 2, 9])])
    answer = search.answer(0, unanswerable=False)
    assert answer.best == answer.n_best[0]
    assert (answer.best.answer, answer.best.start, answer.best.end) == ("c", 4, 5)
    assert said(answer) == ["c", "a", "b c", "b", "a b c", "a b"]
    scores = np.array([6, 5, 4, 3, 3, 2])
    expected = np.exp(scores) / np.exp(scores).sum()
    probabilities = [answer.n_best[index].probability for index in range(6)]
    assert sorted(probabilities) == pytest.approx(sorted(expected))
    assert math.fsum(probabilities) == pytest.approx(1)


def test_an_answer_has_a_longest_length_and_the_list_an_end():
    logits = [([0, 9, 1, 1, 0], [0, 1, 1, 9, 0])]
    assert searched(logits).answer(0, unanswerable=False).best.answer == "a b c"
    assert searched(logits, max_answer_length=2).answer(0, unanswerable=False).best.answer in ("a", "b c", "a b")
    assert len(searched(logits, n_best=3).answer(0, unanswerable=False).n_best) == 3
    one = searched(logits, n_best=1).answer(0, unanswerable=False)
    assert (one.best.answer, one.best.probability) == ("a b c", 1.0)


def test_no_answer_is_one_where_it_may_be():
    search = searched([([5, 1, 2, 4, 0], [5, 4, 1, 2, 0])])
    assert search.answer(0, unanswerable=False).best.answer == "c"
    answer = search.answer(0, unanswerable=True)
    assert answer.best == Candidate(answer=None, start=None, end=None, probability=answer.n_best[0].probability)
    assert said(answer)[:2] == [None, "c"]
    assert answer.best.probability == pytest.approx(1 / (1 + sum(math.exp(score - 10) for score in (6, 5, 4, 3, 3, 2))))


def test_an_answer_goes_before_none_of_the_same_score():
    answer = searched([([3, 1, 2, 4, 0], [3, 4, 1, 2, 0])]).answer(0, unanswerable=True)
    assert answer.best.answer == "c"


def test_every_window_has_to_say_that_there_is_no_answer():
    sure, unsure = ([9, 0, 0, 0, 0], [9, 0, 0, 0, 0]), ([1, 0, 3, 0, 0], [1, 0, 0, 3, 0])
    assert searched([sure]).answer(0, unanswerable=True).best.answer is None
    answer = searched([sure, unsure]).answer(0, unanswerable=True)
    assert answer.best.answer == "b c"
    assert said(answer)[1:3] == ["b", "c"] or None in said(answer)


def test_no_answer_stays_in_a_full_list():
    answer = searched([([-9, 5, 5, 5, 0], [-9, 5, 5, 5, 0])], n_best=3).answer(0, unanswerable=True)
    assert len(answer.n_best) == 4
    assert said(answer)[-1] is None


def test_where_no_span_can_be_there_is_no_answer():
    answer = searched([([9, 0, 0, 0, 8], [9, 0, 0, 0, 8])], n_best=2).answer(0, unanswerable=False)
    assert (answer.best.answer, answer.best.probability, len(answer.n_best)) == (None, 1.0, 1)


def test_padding_takes_no_part():
    logits = ([0, 1, 2, 3, 0], [0, 1, 2, 3, 0])
    padded = (np.array([*logits[0], 99, 98], np.float32), np.array([*logits[1], 99, 98], np.float32))
    search = searched([logits])
    again = searched([logits])
    again.add(0, *padded)
    assert again.answer(0, unanswerable=True) == search.answer(0, unanswerable=True)


def slowly(windows, n_best, longest, *, unanswerable):
    """The n-best list by its definition, one pair after the other: (score, start, end), no answer as (0, 0)."""
    spans = []
    none = math.inf
    for start_logits, end_logits, offsets in windows:
        none = min(none, float(start_logits[0] + end_logits[0]))
        for start in sorted(range(len(offsets)), key=lambda index: -start_logits[index])[:n_best]:
            for end in sorted(range(len(offsets)), key=lambda index: -end_logits[index])[:n_best]:
                in_context = offsets[start, 0] >= 0 and offsets[end, 0] >= 0
                if in_context and start <= end < start + longest:
                    score = float(start_logits[start] + end_logits[end])
                    spans.append((score, int(offsets[start, 0]), int(offsets[end, 1])))
    if unanswerable:
        spans.append((none, 0, 0))
    kept = sorted(spans, key=lambda span: -span[0])[:n_best]
    return kept if not unanswerable or (none, 0, 0) in kept else [*kept, (none, 0, 0)]


@pytest.mark.parametrize("unanswerable", [False, True])
@pytest.mark.parametrize("n_best", [4, 20])
def test_the_search_finds_what_the_definition_says(n_best, *, unanswerable):
    rng = np.random.default_rng(3)
    context = "x" * 200
    for _ in range(50):
        windows, logits = [], []
        for number in range(int(rng.integers(1, 4))):
            tokens = np.arange(30) + 20 * number
            offsets = np.concatenate([np.full((5, 2), -1), np.stack([2 * tokens, 2 * tokens + 1], 1), [[-1, -1]]])
            windows.append(Window(0, offsets.astype(np.int32)))
            logits.append(tuple(rng.normal(0, 4, 36).astype(np.float32) for _ in range(2)))
        questions = (QuestionExample(question="q", context=context),)
        search = SpanSearch(
            QuestionSet(examples=(), questions=questions, windows=tuple(windows)), n_best=n_best, max_answer_length=7
        )
        # Batches are sorted by length: windows do not come in their order.
        for index in reversed(range(len(windows))):
            search.add(index, *logits[index])
        answer = search.answer(0, unanswerable=unanswerable)
        given = [(*pair, window.offsets) for pair, window in zip(logits, windows, strict=True)]
        expected = slowly(given, n_best, 7, unanswerable=unanswerable)
        if not expected:
            assert answer.best.answer is None
            continue
        places = [(one.start or 0, one.end or 0) for one in answer.n_best]
        assert places == [(start, end) for _, start, end in expected]
        scores = np.array([score for score, _, _ in expected])
        powers = np.exp(scores - scores.max())
        assert [one.probability for one in answer.n_best] == pytest.approx(list(powers / powers.sum()), rel=1e-5)


def test_how_an_answer_is_told():
    one = Candidate(answer="Lon\ndon", start=3, end=10, probability=0.75)
    none = Candidate(answer=None, start=None, end=None, probability=0.25)
    answer = FoundAnswer(best=none, n_best=(one, none))
    assert answer.lines(5) == ["no answer 25.0 %", "Lon don 75.0 % [3:10]"]
    assert answer.lines(1) == ["no answer 25.0 %"]
    assert json.loads(json.dumps(answer.record())) == {
        "answer": None, "start": None, "end": None, "probability": 0.25,
        "n_best": [dataclasses.asdict(one), dataclasses.asdict(none)],
    }  # fmt: skip
    assert answer.truncated is False
