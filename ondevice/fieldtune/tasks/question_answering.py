"""Extractive question answering: where in a context the answer to a question stands, or that it does not.

A context that is too long for the graph goes through it in windows that overlap, each behind the question. Files are in
SQuAD's form (Rajpurkar et al. 2016, and 2018 with questions that have no answer), and so are the figures.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from fieldtune.data import (
    Choice,
    Columns,
    EncodedSet,
    Fault,
    Report,
    Row,
    batch_limit,
    batch_of,
    checked_limit,
    checked_text,
    length_limit,
    plan_evaluation,
    refuse_parts,
)
from fieldtune.errors import InvalidData
from fieldtune.serving import LoadedAdapter, Runner
from fieldtune.tasks.answering import (
    DOC_STRIDE,
    MAX_ANSWER_LENGTH,
    N_BEST,
    FoundAnswer,
    Question,
    QuestionExample,
    QuestionMeter,
    QuestionSet,
    SpanSearch,
    choose_columns,
    read_question,
    rows_of,
    windows_of,
)
from fieldtune.tasks.interface import Item, Note, Task


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
        return rows_of(path)

    def choose(self, rows: Sequence[Row], named: Columns, *, labelled: bool) -> Choice:
        """Choose the columns of question and context and, if ``labelled``, of the answers."""
        refuse_parts(named, self.columns, self.name)
        return choose_columns(rows, named, labelled=labelled)

    def read_row(
        self, row: Row, choice: Choice, file: Path, fault: Report, *, labelled: bool
    ) -> QuestionExample | None:
        """Return a question with its context and its answers, each of which stands where it is said to."""
        return read_question(row, choice, row.where(file), fault, labelled=labelled)

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
            outputs = runner.run(arrays, adapter, outputs=["start_logits", "end_logits"])
            for row, index in enumerate(indices):
                search.add(int(index), outputs["start_logits"][row], outputs["end_logits"][row])
        return [search.answer(index, unanswerable=options.unanswerable) for index in range(len(examples))]

    def _windows(self, examples: Sequence[Any], max_length: int | None, doc_stride: int) -> QuestionSet:
        questions = tuple(example for example in examples if isinstance(example, QuestionExample))
        if len(questions) < len(examples):
            raise TypeError(f"{self.name} takes QuestionExample only")
        with self.lock:
            limit = checked_limit(max_length, self.tokenizer, self.text)
            return windows_of(questions, self.tokenizer, limit, doc_stride)
