"""Files in SQuAD's nested form: articles of paragraphs, each with a context and its questions."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fieldtune.data.rows import Fault, Row, kind_of, read_text
from fieldtune.errors import InvalidData, quoted

FORM = '{"data": [{"paragraphs": [{"context": …, "qas": [{"question": …, "answers": […]}]}]}]}'


def squad_articles(path: Path) -> Sequence[Any] | None:
    """Return the articles of a file in SQuAD's nested form; None of one with an object a line.

    Raises:
        InvalidData: neither of the two.
    """
    text = read_text(path)
    lines = [line for line in text.split("\n") if line.strip()]
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        if not lines or _is_object(lines[0]):
            return None
        place = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        why = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise InvalidData(f"{path}{place}: not JSON ({why}); expected {FORM}, or one JSON object a line") from error
    if isinstance(whole, dict) and isinstance(whole.get("data"), list):
        articles: list[Any] = whole["data"]
        return articles
    if isinstance(whole, dict) and "data" not in whole and len(lines) == 1:
        return None
    kind = kind_of(whole)
    if isinstance(whole, dict):
        data = f"'data' is {kind_of(whole['data'])}" if "data" in whole else "no 'data'"
        kind = f"an object with {quoted(list(whole))}, {data}"
    raise InvalidData(f"{path}: {kind}; expected SQuAD's form {FORM}, or one JSON object a line")


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def squad_rows(articles: Sequence[Any]) -> tuple[list[Row], list[Fault]]:
    """Return a row for each question, with the context beside what it has itself."""
    rows: list[Row] = []
    faults: list[Fault] = []

    def fault(place: str, message: str) -> None:
        faults.append(Fault(len(rows) + len(faults), message, place))

    for article_place, article in _objects(articles, "data", fault, "paragraphs"):
        paragraphs = _objects(article["paragraphs"], f"{article_place}.paragraphs", fault, "context", "qas")
        for place, paragraph in paragraphs:
            for question_place, question in _objects(paragraph["qas"], f"{place}.qas", fault, "question"):
                cells = {"context": paragraph["context"], **question}
                rows.append(Row(len(rows) + len(faults), cells, question_place))
    return rows, faults


def _objects(
    values: object, place: str, fault: Callable[[str, str], None], *needed: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a list that have the needed fields, each with its place; of the others ``fault`` is told."""
    if not isinstance(values, list):
        fault(place, f"{kind_of(values)}; expected a list")
        return
    for number, value in enumerate(values):
        here = f"{place}[{number}]"
        if not isinstance(value, dict):
            fault(here, f"{kind_of(value)}; expected an object")
        elif missing := [name for name in needed if name not in value]:
            fault(here, f"no {' and no '.join(map(repr, missing))}; it has {quoted(list(value)) or 'nothing'}")
        else:
            yield here, value
