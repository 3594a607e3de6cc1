import numpy as np
import pytest

from builders import questions
from fieldtune.bundle.manifest import IGNORE_INDEX
from fieldtune.errors import InvalidData
from fieldtune.tasks.answering.questions import QuestionExample
from fieldtune.tasks.answering.windows import windows_of


def test_a_short_context_is_one_window(words):
    encoded = windows_of(questions(("  q ?", "a bb c.", "bb c"), ("q ?", "a b", ""), ("q ?", "a b", None)), words, 200)
    first, second, third = encoded.examples
    assert first.arrays["input_ids"].tolist() == [2, 20, 30, 3, 4, 1, 6, 31, 3], "space before the question is nothing"
    assert first.arrays["token_type_ids"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert (first.arrays["start_positions"], first.arrays["end_positions"]) == (5, 6)
    assert first.arrays["start_positions"].dtype == np.int64
    assert first.arrays["start_positions"].shape == ()
    assert (second.arrays["start_positions"], second.arrays["end_positions"]) == (0, 0)
    assert (third.arrays["start_positions"], third.arrays["end_positions"]) == (IGNORE_INDEX, IGNORE_INDEX)
    assert [example.weight for example in encoded.examples] == [1, 1, 0]
    assert [example.length for example in encoded.examples] == [9, 7, 7]
    assert encoded.windows[0].offsets.tolist() == [*[[-1, -1]] * 4, [0, 1], [2, 4], [5, 6], [6, 7], [-1, -1]]
    assert encoded.notes == ("3 questions in 3 windows of up to 200 tokens",)
    assert encoded.truncated == encoded.dropped == 0


def test_a_long_context_is_several_windows_that_overlap(words):
    context = " ".join("abcdefghij")
    encoded = windows_of(questions(("q", context, "f g"), ("q", "a b", "b")), words, 8)
    # Four tokens of the context beside [CLS] q [SEP] … [SEP], of which half are in the window before.
    pieces = [
        context[window.offsets[3, 0] : window.offsets[-2, 1]] for window in encoded.windows if window.question == 0
    ]
    assert pieces == ["a b c d", "c d e f", "e f g h", "g h i j"]
    starts = [int(example.arrays["start_positions"]) for example in encoded.examples]
    ends = [int(example.arrays["end_positions"]) for example in encoded.examples]
    assert (starts, ends) == ([0, 0, 4, 0, 4], [0, 0, 5, 0, 4]), "where only a part of the answer is, it is not"
    assert [window.question for window in encoded.windows] == [0, 0, 0, 0, 1]
    assert encoded.notes == ("2 questions in 5 windows of up to 8 tokens",)
    wide = windows_of(questions(("q", context, None)), words, 8, 1)
    assert [window.offsets[3, 0] for window in wide.windows] == [0, 6, 12], "a stride of 1"


def test_an_answer_in_the_middle_of_tokens_gets_all_of_them(words):
    (example,) = windows_of(questions(("q", "aa bcd efg", "cd ef")), words, 200).examples
    assert (example.arrays["start_positions"], example.arrays["end_positions"]) == (4, 5)
    (last,) = windows_of(questions(("q", "aa bcd efg", "efg")), words, 200).examples
    assert (last.arrays["start_positions"], last.arrays["end_positions"]) == (5, 5)


def test_questions_that_leave_no_room(words):
    long = questions(("a b c d e", "x y", "x"), ("a", "x y", "x"), ("a b c d e f", "x", "x"))
    with pytest.raises(InvalidData, match=r"2 question\(s\).* a window of 8 tokens has 3 of its own") as caught:
        windows_of(long, words, 8)
    assert "example 1: the question has 5 tokens" in str(caught.value)
    assert "example 3: the question has 6 tokens" in str(caught.value)
    assert len(windows_of(long[:2], words, 9).examples) == 3, "a room of one token is a room"


def test_what_has_no_token(words):
    with pytest.raises(InvalidData, match="example 1: no token of the question"):
        windows_of([QuestionExample(question="\u2028", context="a", answers=())], words, 200)
    with pytest.raises(InvalidData, match="example 1: no token of the context"):
        windows_of([QuestionExample(question="a", context="\u2028", answers=())], words, 200)
