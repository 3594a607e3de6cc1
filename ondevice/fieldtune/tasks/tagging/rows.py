"""Files of texts whose words have tags: rows, their columns, and what a row says."""

import difflib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fieldtune.data import (
    DELIMITERS,
    JSON_SUFFIXES,
    Available,
    Choice,
    Columns,
    Fault,
    LabelIndex,
    Report,
    Row,
    checked_text,
    column_flag,
    has_column,
    kind_of,
    read_rows,
    shortened,
)
from fieldtune.data.conll import CONLL_SUFFIXES, FIRST, LAST, read_conll
from fieldtune.errors import InvalidData, quoted
from fieldtune.tasks.tagging.entities import OUTSIDE, Scheme, kinds_of
from fieldtune.tasks.tagging.texts import Span

_USUAL = {
    "tokens": ("tokens", "words"),
    "tags": ("ner_tags", "tags", "labels", "ner"),
    "text": ("text", "sentence", "content"),
    "spans": ("spans", "entities"),
}
"""Usual names of the columns; the first that is there counts."""
_PAIRS = (("tokens", "tags"), ("text", "spans"))


def rows_of(path: Path) -> tuple[list[Row], list[Fault]]:
    """Return the rows of a file, and the faults of the other lines; of CoNLL columns, a row is a sentence.

    Raises:
        InvalidData: another suffix, or a file that cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in CONLL_SUFFIXES:
        return read_conll(path)
    known = (*JSON_SUFFIXES, *DELIMITERS)
    if suffix not in known:
        raise InvalidData(
            f"{path}: unknown kind of file (suffix {suffix!r}); expected one of {', '.join(known)}, or CoNLL "
            f"columns in one of {', '.join(CONLL_SUFFIXES)}"
        )
    return read_rows(path)


def choose_pair(rows: Sequence[Row], named: Columns, *, labelled: bool) -> Choice:
    """Choose the columns of words and tags, or of texts and spans.

    Raises:
        InvalidData: a named column is missing, or no guess can be made.
    """
    available = Available(rows)
    if not named and FIRST in available.names:
        return _conll_choice(available.names, labelled=labelled)
    pairs = [pair for pair in _PAIRS if not named or any(part in named for part in pair)]
    if len(pairs) == len(_PAIRS) and named:
        (tokens, tags), (text, spans) = (map(column_flag, pair) for pair in _PAIRS)
        raise InvalidData(f"{tokens} and {tags} go without {text} and {spans}: name the former or the latter")
    for content, mark in pairs:
        chosen = {part: available.named(part, named) for part in (content, mark) if part in named}
        for part in (content, mark):
            column = chosen.get(part) or available.find(_USUAL[part], chosen.get(content))
            if column is not None and (labelled or part == content):
                chosen[part] = column
        if content in chosen and (mark in chosen or not labelled):
            return Choice.of({part: chosen[part] for part in (content, mark) if part in chosen}, named)
    raise InvalidData(
        f"cannot tell which columns hold words and tags; the columns are {quoted(available.names)}; expected tokens "
        "and tags (or ner_tags), or text and spans (or entities); name them with --tokens-column and "
        "--tags-column, or with --text-column and --spans-column"
    )


def _conll_choice(available: Sequence[str], *, labelled: bool) -> Choice:
    if not labelled:
        return Choice({"tokens": FIRST}, ())
    if LAST not in available:
        raise InvalidData("no line has a tag; expected the token first and its tag last")
    return Choice({"tokens": FIRST, "tags": LAST}, ())


def read_words(row: Row, column: str, fault: Report) -> tuple[str, ...] | None:
    """Return the words of a row; None after a fault."""
    cells = _list(row, column, fault)
    if cells is None:
        return None
    words = [checked_text(cell, f"{column!r}: token {number}", fault) for number, cell in enumerate(cells, start=1)]
    return None if None in words else tuple(word for word in words if word is not None)


def read_tags(
    row: Row, columns: Columns, labels: Sequence[str], scheme: Scheme, fault: Report
) -> tuple[int, ...] | None:
    """Return the indices of the tags of a row's words; None after a fault."""
    column = columns["tags"]
    cells = _list(row, column, fault)
    if cells is None:
        return None
    index, faults = LabelIndex(labels), 0
    tags: list[int] = []
    for number, cell in enumerate(cells, start=1):
        tag = index.find(cell)
        if isinstance(tag, int):
            tags.append(tag)
            continue
        faults += 1
        fault(f"{column!r}: tag {number}: {_strange(cell, scheme) or tag}")
    held = row.cells.get(columns["tokens"])
    if isinstance(held, list) and len(held) != len(cells):
        faults += 1
        fault(
            f"{columns['tokens']!r} has {len(held)} words and {column!r} {len(cells)} tags; "
            "expected a tag for each word"
        )
    return None if faults else tuple(tags)


def read_spans(row: Row, column: str, text: str, labels: Sequence[str], fault: Report) -> tuple[Span, ...] | None:
    """Return the spans of a row's text, in its order; None after a fault."""
    cells = _list(row, column, fault, empty=True)
    if cells is None:
        return None
    faults: list[str] = []
    spans: list[Span] = []
    for number, cell in enumerate(cells, start=1):
        span = _span(cell, text, kinds_of(labels))
        if isinstance(span, str):
            faults.append(f"span {number}: {span}")
        else:
            spans.append(span)
    ordered = sorted(spans)
    for one, other in itertools.pairwise(ordered):
        if other.start < one.end:
            faults.append(f"{one.said(text)} and {other.said(text)} overlap; a word has one tag")
    for line in faults:
        fault(f"{column!r}: {line}")
    return None if faults else tuple(ordered)


def _list(row: Row, column: str, fault: Report, *, empty: bool = False) -> list[Any] | None:
    """Return a cell that must be a list; None after a fault."""
    if not has_column(row, column, fault):
        return None
    cell = row.cells[column]
    if not isinstance(cell, list):
        fault(f"{column!r} is {kind_of(cell)}; expected a list")
        return None
    if not cell and not empty:
        fault(f"{column!r} is an empty list")
        return None
    return cell


def _strange(cell: object, scheme: Scheme) -> str:
    """Say that a tag is of another scheme; "" where it is not."""
    prefixes = "BI" if scheme == "BIO" else "BIES"
    if isinstance(cell, str) and len(cell) > 1 and cell[1] == "-" and cell[0].isupper() and cell[0] not in prefixes:
        return (
            f"{shortened(cell)} is not of {scheme}, which the bundle's labels are in; expected {OUTSIDE} or "
            f"{', '.join(f'{prefix}-' for prefix in prefixes)} before a type"
        )
    return ""


def _span(cell: object, text: str, kinds: Sequence[str]) -> Span | str:
    """Return a span, or what is wrong with it."""
    if not isinstance(cell, dict):
        return f"is {kind_of(cell)}; expected an object of start, end and label"
    start, end, kind = (cell.get(key) for key in ("start", "end", "label"))
    for key, value in (("start", start), ("end", end)):
        if not isinstance(value, int) or isinstance(value, bool):
            return f"its {key} is {kind_of(value)}; expected a number of characters"
    assert isinstance(start, int)
    assert isinstance(end, int)
    if not 0 <= start < end <= len(text):
        return f"is {start} to {end}; expected one that begins before its end, within the text's {len(text)} characters"
    inner = text[start:end]
    if inner != inner.strip():
        first = start + len(inner) - len(inner.lstrip())
        last = first + len(inner.strip())
        hint = f"; did you mean {first} to {last} ({shortened(inner.strip())})?" if inner.strip() else ""
        return f"is {start} to {end} ({shortened(inner)}), which begins or ends with white space{hint}"
    if not isinstance(kind, str) or kind not in kinds:
        near = difflib.get_close_matches(str(kind), kinds, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        what = shortened(kind) if isinstance(kind, str) else kind_of(kind)
        return f"its label is {what}{hint}; the types are {quoted(kinds)}"
    return Span(start, end, kind)
