"""Extractive question answering: where in a context the answer to a question stands, or that it does not.

A context that is too long for the graph goes through it in windows that overlap, each behind the question. Files are in
SQuAD's form (Rajpurkar et al. 2016, and 2018 with questions that have no answer), and so are the figures.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from fieldtune.bundle import IGNORE_INDEX
from fieldtune.data import (
    Available,
    Choice,
    Columns,
    Encoded,
    EncodedSet,
    Fault,
    Report,
    Row,
    batch_limit,
    batch_of,
    checked_limit,
    column_flag,
    length_limit,
    place_of,
    plan_evaluation,
    read_rows,
    refuse_parts,
    text_of,
)
from fieldtune.data.rows import checked_text, has_column, kind_of, shortened
from fieldtune.data.squad import squad_articles, squad_rows
from fieldtune.errors import InvalidData, listed, quoted
from fieldtune.serving import LoadedAdapter, Runner
from fieldtune.tasks.answer_spans import (
    MAX_ANSWER_LENGTH,
    N_BEST,
    NO_ANSWER,
    FoundAnswer,
    Offsets,
    Question,
    QuestionExample,
    QuestionMeter,
    QuestionSet,
    Span,
    SpanSearch,
    Window,
)
from fieldtune.tasks.interface import Item, Note, Task

if TYPE_CHECKING:
    import tokenizers


DOC_STRIDE = 128
"""Tokens that a window has in common with the one before it, as transformers' script for SQuAD has it; where that is
more than half of a window's room for the context, half of the room."""

_NAMES = {
    "question": ("question", "query"),
    "context": ("context", "passage", "paragraph", "document", "text"),
    "answer": ("answers", "answer", "answer_text"),
    "answer_start": ("answer_start",),
    "is_impossible": ("is_impossible",),
}
_TEXTS_AT_ONCE = 256
_MOST_PLACES_SHOWN = 5


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class QuestionOptions:
    """What ``fieldtune run`` takes for question answering."""

    question: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="TEXT")] = ()
    """Question answering: what to ask about --context; give it several times for several questions."""

    context: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """Question answering: the text that holds the answers to --question, or to the questions given as TEXT."""

    unanswerable: bool = False
    """Question answering: say "no answer" where that is likelier than the best answer."""

    n_best: int = N_BEST
    """Question answering: likeliest starts and ends that are combined, and answers that are kept."""

    max_answer_length: int = MAX_ANSWER_LENGTH
    """Question answering: tokens that an answer may have."""

    doc_stride: int = DOC_STRIDE
    """Question answering: tokens that the windows of a long context have in common, up to half of a window's room."""


class QuestionAnswering(Task):
    """A span of a context for each question; each window of a context is one example of weight 1."""

    name = "question-answering"
    columns = {  # noqa: RUF012 (nobody changes it)
        "question": "Holds the question.",
        "context": "Holds the text that the answer stands in.",
        "answer": "Holds the answer or the list of answers, as SQuAD has it; empty where there is none.",
        "answer_start": "Holds the character of the context at which the answer begins.",
        "is_impossible": "Holds whether the context has no answer.",
    }
    item = "question"
    options = QuestionOptions
    takes = frozenset({"batch_size", "max_length"})

    def rows(self, path: Path) -> tuple[list[Row], list[Fault]]:
        """Return the questions of a nested file (.json) as rows that are known by their place, else those of lines."""
        found = squad_articles(path) if path.suffix.lower() == ".json" else None
        return read_rows(path) if found is None else squad_rows(found)

    def choose(self, rows: Sequence[Row], named: Columns, *, labelled: bool) -> Choice:
        """Choose the columns of question and context and, if ``labelled``, of the answers."""
        refuse_parts(named, self.columns, self.name)
        available = Available(rows)
        needed = ("question", "context", "answer") if labelled else ("question", "context")
        chosen = {
            part: column
            for part, names in _NAMES.items()
            if labelled or part in needed
            if (column := available.named(part, named) if part in named else available.find(names)) is not None
        }
        missing = [part for part in needed if part not in chosen]
        if missing:
            flags = " and ".join(map(column_flag, missing))
            raise InvalidData(
                f"cannot tell which column holds the {' and the '.join(missing)}; the columns are "
                f"{quoted(available.names)}; name {'it' if len(missing) == 1 else 'them'} with {flags}"
            )
        return Choice.of(chosen, named)

    def read_row(
        self, row: Row, choice: Choice, file: Path, fault: Report, *, labelled: bool
    ) -> QuestionExample | None:
        """Return a question with its context and its answers, each of which stands where it is said to."""
        faults: list[str] = []
        question = text_of(row, choice.columns["question"], faults.append)
        context = text_of(row, choice.columns["context"], faults.append)
        answers: tuple[Span, ...] | None = None
        if labelled and context is not None:
            answers = _answers(row, choice.columns, context, faults.append)
        for message in faults:
            fault(message)
        if faults or question is None or context is None:
            return None
        return QuestionExample(question=question, context=context, answers=answers, where=row.where(file))

    def encode(self, examples: Sequence[Any], *, max_length: int | None = None, strict: bool = False) -> QuestionSet:
        """Encode questions with their contexts in windows; nothing is cut, so ``strict`` refuses nothing.

        An answer that does not stand in a window whole is not in that window.

        Raises:
            InvalidData: questions that leave no room for their contexts; every one is named, up to 20.
        """
        return self._windows(examples, max_length, DOC_STRIDE)

    def meter(self, encoded: EncodedSet) -> QuestionMeter:
        """Return what measures exact match and F1."""
        return QuestionMeter(encoded)

    def check_options(self, options: QuestionOptions) -> None:
        """Check that a question has its context, and that the numbers are numbers of something."""
        if options.question and options.context is None:
            raise ValueError("--question needs --context: the text that holds the answer")
        for flag, text in (("--context", options.context), *(("--question", one) for one in options.question)):
            faults: list[str] = []
            if text is not None and checked_text(text, flag, faults.append) is None:
                raise ValueError(f"{faults[0]}; expected text in UTF-8")
        least = {"n_best": 1, "max_answer_length": 1, "doc_stride": 0}
        for name, smallest in least.items():
            if getattr(options, name) < smallest:
                flag = "--" + name.replace("_", "-")
                raise ValueError(f"{flag} is {getattr(options, name)}; expected at least {smallest}")

    def asking_flags(self, options: QuestionOptions) -> Sequence[str]:
        """Return the flag of questions, if there are any."""
        return ("--question",) if options.question else ()

    def given(self, texts: Sequence[str], options: QuestionOptions, note: Note) -> list[Item]:
        """Return the questions of the options, or texts as questions about the context of the options.

        Raises:
            InvalidData: there is no context.
        """
        if options.context is None:
            raise InvalidData(
                "questions without the text that holds the answers; give it with --context, or give questions and "
                "contexts in a file with --data"
            )
        return [Item(question, Question(question, options.context)) for question in texts or options.question]

    def asked(self, example: QuestionExample, options: QuestionOptions) -> Item:
        """Return the question of an example.

        Raises:
            InvalidData: the options have a context, too.
        """
        if options.context is not None:
            raise InvalidData(f"{example.where}: the file has the contexts; leave --context out")
        return Item(example.question, Question(example.question, example.context))

    def answer(
        self,
        runner: Runner,
        contents: Sequence[tuple[str, str]],
        adapter: LoadedAdapter | None = None,
        *,
        batch_size: int | None = None,
        max_length: int | None = None,
        strict: bool = False,
        options: QuestionOptions | None = None,
    ) -> list[FoundAnswer]:
        """Answer questions: pairs of a question and its context."""
        options = options or QuestionOptions()
        examples = [
            QuestionExample(question=question, context=context, where=f"question {number}")
            for number, (question, context) in enumerate(contents, start=1)
        ]
        inputs = runner.graph.inputs
        encoded = self._windows(
            examples, length_limit(max_length, runner.profile, inputs, self.text), options.doc_stride
        )
        search = SpanSearch(encoded, n_best=options.n_best, max_answer_length=options.max_answer_length)
        for indices in plan_evaluation(encoded.lengths, batch_limit(batch_size, runner.profile, inputs)):
            arrays = batch_of(encoded.examples, indices, inputs)
            found = runner.run(arrays, adapter, outputs=["start_logits", "end_logits"])
            for row, index in enumerate(indices):
                search.add(int(index), found["start_logits"][row], found["end_logits"][row])
        return [search.answer(index, unanswerable=options.unanswerable) for index in range(len(examples))]

    def _windows(self, examples: Sequence[Any], max_length: int | None, doc_stride: int) -> QuestionSet:
        questions = tuple(example for example in examples if isinstance(example, QuestionExample))
        if len(questions) < len(examples):
            raise TypeError(f"{self.name} takes QuestionExample only")
        with self.lock:
            limit = checked_limit(max_length, self.tokenizer, self.text)
            rooms = _rooms(questions, self.tokenizer, limit)
            found = _encodings(questions, self.tokenizer, limit, [min(doc_stride, room // 2) for room in rooms])
        encoded: list[Encoded] = []
        windows: list[Window] = []
        empty: list[str] = []
        for index, (question, encodings) in enumerate(zip(questions, found, strict=True)):
            for encoding in encodings:
                window = Window(index, _offsets(encoding))
                if (window.offsets < 0).all():
                    empty.append(f"{place_of(questions, index)}: no token of the context")
                    break
                windows.append(window)
                encoded.append(_example(encoding, question, window.offsets))
        if empty:
            raise InvalidData(f"{len(empty)} context(s) hold nothing that the tokenizer knows{listed(empty)}")
        note = f"{len(questions)} questions in {len(windows)} windows of up to {limit} tokens"
        return QuestionSet(examples=tuple(encoded), notes=(note,), questions=questions, windows=tuple(windows))


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
    found: list[list[tokenizers.Encoding]] = [[] for _ in questions]
    for indices, overlap in _alike(overlaps):
        tokenizer.enable_truncation(limit, stride=overlap, strategy="only_second")
        try:
            pairs = [(_asked(questions[index]), questions[index].context) for index in indices]
            for index, encoding in zip(indices, tokenizer.encode_batch(pairs), strict=True):
                found[index] = [encoding, *encoding.overflowing]
        finally:
            tokenizer.no_truncation()
    return found


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


def _answers(row: Row, columns: Columns, context: str, fault: Report) -> tuple[Span, ...]:
    """Return the right answers of a row; of faulty ones ``fault`` is told."""
    impossible = _truth(row.cells.get(columns.get("is_impossible", "")), columns.get("is_impossible", ""), fault)
    column = columns["answer"]
    # Where there is no answer, there need be no column of answers.
    if (impossible and column not in row.cells) or not has_column(row, column, fault):
        return ()
    beside = row.cells.get(columns.get("answer_start", ""))
    said = list(_said(row.cells[column], beside, repr(column), fault))
    if impossible:
        if said:
            fault(f"{column!r} holds {shortened(str(said[0][1]))}, but {columns['is_impossible']!r} says no answer")
        return ()
    if impossible is False and not said and row.cells[column] in ("", None, []):
        fault(f"{column!r} holds none, but {columns['is_impossible']!r} says that there is one")
    spans = [_placed(what, text, start, context, fault) for what, text, start in said]
    return tuple(span for span in spans if span is not None)


def _truth(value: object, column: str, fault: Report) -> bool | None:
    """Return what a cell says of whether there is no answer; None where it says nothing."""
    if value is None or value == "" or isinstance(value, bool):
        return value if isinstance(value, bool) else None
    words = {"true": True, "1": True, "false": False, "0": False}
    known = words.get(str(value).strip().lower())
    if known is None:
        fault(f"{column!r} is {kind_of(value)}; expected true or false")
    return known


def _said(value: object, beside: object, what: str, fault: Report) -> Iterator[tuple[str, object, object]]:
    """Yield each answer of a cell: what messages call it, its text, and where it is said to begin, if it is."""
    if value is None or value in ("", []):
        return
    if isinstance(value, list):
        for number, one in enumerate(value):
            if isinstance(one, str):
                yield f"{what}[{number}]", one, None
            elif isinstance(one, dict) and "text" in one:
                yield f"{what}[{number}]", one["text"], one.get("answer_start")
            else:
                fault(f"{what}[{number}] is {kind_of(one)}; expected an object with 'text' and 'answer_start'")
    elif not isinstance(value, dict):
        yield what, value, beside
    elif "text" in value:
        yield from _columnwise(value["text"], value.get("answer_start"), what, fault)
    else:
        fault(f"{what} is an object with {quoted(list(value)) or 'nothing'}; expected 'text' and 'answer_start'")


def _columnwise(texts: object, starts: object, what: str, fault: Report) -> Iterator[tuple[str, object, object]]:
    """Yield the answers of a list of texts beside a list of starts."""
    if not isinstance(texts, list):
        yield f"{what}['text']", texts, starts
    elif starts is None:
        yield from ((f"{what}['text'][{number}]", text, None) for number, text in enumerate(texts))
    elif not isinstance(starts, list) or len(starts) != len(texts):
        count = len(starts) if isinstance(starts, list) else kind_of(starts)
        fault(f"{what} has {len(texts)} in 'text' and {count} in 'answer_start'; expected as many of each")
    else:
        for number, (text, start) in enumerate(zip(texts, starts, strict=True)):
            yield f"{what}['text'][{number}]", text, start


def _placed(what: str, text: object, start: object, context: str, fault: Report) -> Span | None:
    """Return an answer with its place, once the context has it there; None after a fault."""
    answer = checked_text(text, what, fault)
    if answer is None:
        return None
    found = [match.start() for match in re.finditer(f"(?={re.escape(answer)})", context)]
    if start is None or start == "":
        if len(found) == 1:
            return Span(answer, found[0])
        if found:
            more = ", …" if len(found) > _MOST_PLACES_SHOWN else ""
            at = ", ".join(map(str, found[:_MOST_PLACES_SHOWN]))
            fault(f"{what}: {shortened(answer)} is in the context {len(found)} times (at {at}{more}); say which by "
                  "answer_start")  # fmt: skip
        else:
            fault(f"{what}: {_absent(answer, context)}")
        return None
    place = int(start) if isinstance(start, str) and start.strip().isdecimal() else start
    if not isinstance(place, int) or isinstance(place, bool):
        fault(f"{what}: answer_start is {kind_of(start)}; expected the number of a character")
    elif place in found:
        return Span(answer, place)
    else:
        fault(f"{what}: {_elsewhere(answer, place, found, context)}")
    return None


def _elsewhere(answer: str, place: int, found: Sequence[int], context: str) -> str:
    """Say what is wrong with an answer that does not stand where it is said to."""
    if not found:
        return _absent(answer, context)
    nearest = min(found, key=lambda one: abs(one - place))
    right = f"{shortened(answer)} begins at {nearest}"
    if not 0 <= place < len(context):
        return f"answer_start is {place}, and the context has {len(context)} characters; {right}"
    there = shortened(context[place : place + len(answer)])
    return f"answer_start is {place}, where the context has {there}; {right}"


def _absent(answer: str, context: str) -> str:
    said = f"{shortened(answer)} is not in the context"
    near = _nearest(answer, context)
    return f"{said}; nearest is {shortened(near.text)} at {near.start}" if near else said


def _nearest(answer: str, context: str) -> Span | None:
    """Return what differs from an answer by case or space alone, else what has at least half of it in one piece."""
    pattern = r"\s+".join(map(re.escape, answer.split()))
    if match := re.search(pattern, context, re.IGNORECASE):
        return Span(match.group(), match.start())
    matcher = difflib.SequenceMatcher(None, context, answer, autojunk=False)
    common = matcher.find_longest_match()
    if 2 * common.size < len(answer):
        return None
    start = max(0, common.a - common.b)
    return Span(context[start : common.a - common.b + len(answer)], start)
