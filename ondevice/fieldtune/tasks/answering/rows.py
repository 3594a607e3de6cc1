"""Files of questions: SQuAD's form, or an object a line; their columns, and what a row says."""

from collections.abc import Sequence
from pathlib import Path

from fieldtune.data import Available, Choice, Columns, Fault, Report, Row, column_flag, read_rows, text_of
from fieldtune.data.squad import squad_articles, squad_rows
from fieldtune.errors import InvalidData, quoted
from fieldtune.tasks.answering.questions import QuestionExample, Span
from fieldtune.tasks.answering.right_answers import right_answers

_NAMES = {
    "question": ("question", "query"),
    "context": ("context", "passage", "paragraph", "document", "text"),
    "answer": ("answers", "answer", "answer_text"),
    "answer_start": ("answer_start",),
    "is_impossible": ("is_impossible",),
}
"""Usual names of the columns."""


def rows_of(path: Path) -> tuple[list[Row], list[Fault]]:
    """Return the questions of a nested file (.json) as rows that are known by their place, else those of lines.

    Raises:
        InvalidData: another suffix, or a file that cannot be read or is of neither form.
    """
    articles = squad_articles(path) if path.suffix.lower() == ".json" else None
    return read_rows(path) if articles is None else squad_rows(articles)


def choose_columns(rows: Sequence[Row], named: Columns, *, labelled: bool) -> Choice:
    """Choose the columns of question and context and, if ``labelled``, of the answers.

    Raises:
        InvalidData: a named column is missing, or no guess can be made.
    """
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


def read_question(row: Row, choice: Choice, where: str, fault: Report, *, labelled: bool) -> QuestionExample | None:
    """Return a question with its context and its answers; None after a fault."""
    faults: list[str] = []
    question = text_of(row, choice.columns["question"], faults.append)
    context = text_of(row, choice.columns["context"], faults.append)
    answers: tuple[Span, ...] | None = None
    if labelled and context is not None:
        answers = right_answers(row, choice.columns, context, faults.append)
    for message in faults:
        fault(message)
    if faults or question is None or context is None:
        return None
    return QuestionExample(question=question, context=context, answers=answers, where=where)
