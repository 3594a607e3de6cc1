"""Windows over contexts that are too long for a graph: they overlap, and each is behind the question."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from fieldtune.bundle import IGNORE_INDEX
from fieldtune.data import Encoded, EncodedSet, place_of
from fieldtune.errors import InvalidData, listed
from fieldtune.tasks.answering.questions import QuestionExample, Span

if TYPE_CHECKING:
    import tokenizers

Offsets: TypeAlias = npt.NDArray[np.int32]
DOC_STRIDE = 128
"""Tokens that a window has in common with the one before it, as transformers' script for SQuAD has it; where that is
more than half of a window's room for the context, half of the room."""
NO_ANSWER = 0
"""The token that stands for "no answer here": the first one, [CLS] of BERT and its like."""
_TEXTS_AT_ONCE = 256


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


def windows_of(
    questions: Sequence[QuestionExample], tokenizer: "tokenizers.Tokenizer", limit: int, doc_stride: int = DOC_STRIDE
) -> QuestionSet:
    """Encode questions, each in front of as much of its context as there is room for, in as many windows as it takes.

    An answer that does not stand in a window whole is not in that window.

    Args:
        questions: the questions.
        tokenizer: the bundle's; its truncation is off before and after.
        limit: tokens of a window.
        doc_stride: tokens that a window has in common with the one before it, up to half of its room.

    Raises:
        InvalidData: questions that leave no room for their contexts, or have no token, or contexts that have none;
            every one is named, up to 20.
    """
    rooms = _rooms(questions, tokenizer, limit)
    strides = [min(doc_stride, room // 2) for room in rooms]
    encoded: list[Encoded] = []
    windows: list[Window] = []
    empty: list[str] = []
    for index, encodings in enumerate(_encodings(questions, tokenizer, limit, strides)):
        for encoding in encodings:
            window = Window(index, _offsets(encoding))
            if (window.offsets < 0).all():
                empty.append(f"{place_of(questions, index)}: no token of the context")
                break
            windows.append(window)
            encoded.append(_example(encoding, questions[index], window.offsets))
    if empty:
        raise InvalidData(f"{len(empty)} context(s) hold nothing that the tokenizer knows{listed(empty)}")
    note = f"{len(questions)} questions in {len(windows)} windows of up to {limit} tokens"
    return QuestionSet(examples=tuple(encoded), notes=(note,), questions=tuple(questions), windows=tuple(windows))


def _asked(question: QuestionExample) -> str:
    # Space before a question means nothing, and some tokenizers make a token of it.
    return question.question.lstrip()


def _rooms(questions: Sequence[QuestionExample], tokenizer: "tokenizers.Tokenizer", limit: int) -> list[int]:
    """Return how many tokens of the context go into a window of each question.

    Raises:
        InvalidData: none, or a question without tokens; every one is named, up to 20.
    """
    special = tokenizer.num_special_tokens_to_add(True)
    rooms: list[int] = []
    faults: list[str] = []
    for start in range(0, len(questions), _TEXTS_AT_ONCE):
        texts = [_asked(question) for question in questions[start : start + _TEXTS_AT_ONCE]]
        for encoding in tokenizer.encode_batch(texts, add_special_tokens=False):
            tokens, place = len(encoding.ids), place_of(questions, len(rooms))
            rooms.append(limit - special - tokens)
            if not tokens:
                faults.append(f"{place}: no token of the question")
            elif rooms[-1] < 1:
                faults.append(f"{place}: the question has {tokens} tokens")
    if faults:
        raise InvalidData(
            f"{len(faults)} question(s) that cannot be asked: a window of {limit} tokens has {special} of its own, and "
            f"the context needs room beside the question; shorten them or raise the maximum length{listed(faults)}"
        )
    return rooms


def _encodings(
    questions: Sequence[QuestionExample], tokenizer: "tokenizers.Tokenizer", limit: int, overlaps: Sequence[int]
) -> "list[list[tokenizers.Encoding]]":
    """Return the windows of each question: its tokens in front, and as much of the context as there is room for."""
    windows: list[list[tokenizers.Encoding]] = [[] for _ in questions]
    for indices, overlap in _alike(overlaps):
        tokenizer.enable_truncation(limit, stride=overlap, strategy="only_second")
        try:
            pairs = [(_asked(questions[index]), questions[index].context) for index in indices]
            for index, encoding in zip(indices, tokenizer.encode_batch(pairs), strict=True):
                windows[index] = [encoding, *encoding.overflowing]
        finally:
            tokenizer.no_truncation()
    return windows


def _alike(overlaps: Sequence[int]) -> Iterator[tuple[list[int], int]]:
    """Yield questions of one overlap, which the tokenizer can take together, in portions."""
    groups: dict[int, list[int]] = {}
    for index, overlap in enumerate(overlaps):
        groups.setdefault(overlap, []).append(index)
    for overlap, indices in groups.items():
        for start in range(0, len(indices), _TEXTS_AT_ONCE):
            yield indices[start : start + _TEXTS_AT_ONCE], overlap


def _offsets(encoding: "tokenizers.Encoding") -> Offsets:
    offsets = np.array(encoding.offsets, np.int32).reshape(-1, 2)
    offsets[[sequence != 1 for sequence in encoding.sequence_ids]] = -1
    return offsets


def _example(encoding: "tokenizers.Encoding", question: QuestionExample, offsets: Offsets) -> Encoded:
    labelled = question.answers is not None
    start, end = _tokens(question.answers[0], offsets) if question.answers else (NO_ANSWER, NO_ANSWER)
    arrays = {
        "input_ids": np.array(encoding.ids, np.int64),
        "token_type_ids": np.array(encoding.type_ids, np.int64),
        "start_positions": np.array(start if labelled else IGNORE_INDEX, np.int64),
        "end_positions": np.array(end if labelled else IGNORE_INDEX, np.int64),
    }
    return Encoded(arrays=arrays, weight=1 if labelled else 0, length=len(encoding.ids))


def _tokens(answer: Span, offsets: Offsets) -> tuple[int, int]:
    """Return the tokens that an answer begins and ends with, ``NO_ANSWER`` where the window does not hold all of it."""
    (tokens,) = np.nonzero(offsets[:, 0] >= 0)
    begins, ends = offsets[tokens, 0], offsets[tokens, 1]
    end = answer.start + len(answer.text)
    if begins[0] > answer.start or ends[-1] < end:
        return NO_ANSWER, NO_ANSWER
    return int(tokens[begins <= answer.start][-1]), int(tokens[ends >= end][0])
