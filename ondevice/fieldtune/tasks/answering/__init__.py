"""Answers within a context: rows of questions, windows over contexts, spans that answer, and scores.

The names below are what its task uses of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.tasks.answering.questions import Question, QuestionExample
    from fieldtune.tasks.answering.rows import choose_columns, read_question, rows_of
    from fieldtune.tasks.answering.scores import QuestionMeter
    from fieldtune.tasks.answering.spans import MAX_ANSWER_LENGTH, N_BEST, FoundAnswer, SpanSearch
    from fieldtune.tasks.answering.windows import DOC_STRIDE, QuestionSet, windows_of

__all__ = [
    "DOC_STRIDE",
    "MAX_ANSWER_LENGTH",
    "N_BEST",
    "FoundAnswer",
    "Question",
    "QuestionExample",
    "QuestionMeter",
    "QuestionSet",
    "SpanSearch",
    "choose_columns",
    "read_question",
    "rows_of",
    "windows_of",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "questions": (
                "Question",
                "QuestionExample",
            ),
            "rows": (
                "choose_columns",
                "read_question",
                "rows_of",
            ),
            "scores": ("QuestionMeter",),
            "spans": (
                "FoundAnswer",
                "MAX_ANSWER_LENGTH",
                "N_BEST",
                "SpanSearch",
            ),
            "windows": (
                "DOC_STRIDE",
                "QuestionSet",
                "windows_of",
            ),
        },
    )
