"""JSON lines and CSV files into rows: each with its line number, and every fault of form gathered."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from fieldtune.errors import InvalidData
from fieldtune.files import is_text

JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
DELIMITERS = {".csv": ",", ".tsv": "\t"}

Report: TypeAlias = Callable[[str], None]
"""Takes what is wrong with the row at hand."""


class Fault(NamedTuple):
    """Something wrong in a line; lines count from 1. ``place`` is what messages say instead of the line's number."""

    line: int
    message: str
    place: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """The cells of one record by column, and the line on which it begins.

    ``place`` is what messages say instead of the line's number, where a record is known by something else.
    """

    line: int
    cells: Mapping[str, Any]
    place: str = ""

    def where(self, file: Path) -> str:
        """Return what messages call it: ``file:line``."""
        return f"{file}:{self.place or self.line}"


def read_rows(path: Path) -> tuple[list[Row], list[Fault]]:
    """Read a file by its suffix: .jsonl, .json and .ndjson hold an object a line; .csv and .tsv begin with a header.

    Returns:
        The rows that are well formed (cells of .csv and .tsv are all strings), and the faults of the other lines.

    Raises:
        InvalidData: another suffix, a file that cannot be read or is not UTF-8, or a header that cannot be used.
    """
    suffix = path.suffix.lower()
    if suffix not in JSON_SUFFIXES and suffix not in DELIMITERS:
        known = ", ".join((*JSON_SUFFIXES, *DELIMITERS))
        raise InvalidData(f"{path}: unknown kind of file (suffix {suffix!r}); expected one of {known}")
    text = read_text(path)
    return _read_json_lines(path, text) if suffix in JSON_SUFFIXES else _read_table(path, text, DELIMITERS[suffix])


def read_text(path: Path) -> str:
    """Return a file's text, without a byte order mark.

    Raises:
        InvalidData: it cannot be read, or is not UTF-8; with the line.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InvalidData(f"{path}: no such file") from error
    except OSError as error:
        raise InvalidData(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        # A byte order mark is what spreadsheets put before UTF-8; it is no part of the first column's name.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The error counts from behind a byte order mark, the line from the file's beginning: no difference in lines.
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise InvalidData(f"{path}:{line}: not UTF-8 text (byte 0x{byte:02x}); save the file as UTF-8") from error


def has_column(row: Row, column: str, fault: Report) -> bool:
    """Whether a row has a cell of a column; if not, ``fault`` is told."""
    if column in row.cells:
        return True
    fault(f"no column {column!r}; it has {', '.join(map(repr, row.cells)) or 'none'}")
    return False


def text_of(row: Row, column: str, fault: Report) -> str | None:
    """Return a cell that must hold text; None after a fault."""
    if not has_column(row, column, fault):
        return None
    return checked_text(row.cells[column], repr(column), fault)


def checked_text(value: object, what: str, fault: Report) -> str | None:
    """Return a value that must be text; None after a fault, which calls it as ``what`` says."""
    if not isinstance(value, str):
        fault(f"{what} is {kind_of(value)}; expected a string")
    elif not value.strip():
        fault(f"{what} is empty")
    elif not is_text(value):
        # JSON can escape half a character (\\ud83d alone), which no tokenizer accepts.
        fault(f"{what} has half of a surrogate pair, which is not text")
    else:
        return value
    return None


def kind_of(value: object) -> str:
    """Say what a cell holds, in JSON's words."""
    if isinstance(value, bool):
        return f"a truth value ({str(value).lower()})"
    if isinstance(value, int | float):
        return f"a number ({value})"
    if isinstance(value, str):
        return f"a string ({shortened(value)})"
    return {type(None): "null", list: "a list", dict: "an object"}.get(type(value), type(value).__name__)


def shortened(value: str) -> str:
    """Quote the beginning of a string for a message."""
    return repr(value if len(value) <= 40 else value[:39] + "…")


def _read_json_lines(path: Path, text: str) -> tuple[list[Row], list[Fault]]:
    if text.lstrip().startswith("["):
        raise InvalidData(f"{path}: a JSON array; expected one JSON object a line (JSON lines), without brackets")
    rows: list[Row] = []
    faults: list[Fault] = []
    # Not splitlines(): U+2028 and its like are allowed inside a JSON string and end no line.
    for line, source in enumerate(text.split("\n"), start=1):
        if not source.strip():
            continue
        try:
            value = json.loads(source)
        except json.JSONDecodeError as error:
            faults.append(Fault(line, f"not JSON ({error.msg}, column {error.colno})"))
        except (ValueError, RecursionError) as error:
            faults.append(Fault(line, f"not JSON ({error})"))
        else:
            if isinstance(value, dict):
                rows.append(Row(line, value))
            else:
                faults.append(Fault(line, f"{kind_of(value)}; expected a JSON object"))
    return rows, faults


def _read_table(path: Path, text: str, delimiter: str) -> tuple[list[Row], list[Fault]]:
    rows: list[Row] = []
    faults: list[Fault] = []
    # strict: a quote that is never closed would otherwise swallow the rest of the file as one cell.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            if not cells:
                pass
            elif header is None:
                header = _checked_header(path, line, cells)
            elif len(cells) == len(header):
                rows.append(Row(line, dict(zip(header, cells, strict=True))))
            else:
                faults.append(Fault(line, f"{len(cells)} cells; the header has {len(header)}"))
            # A record with quoted line breaks spans several lines and is known by its first.
            line = reader.line_num + 1
    except csv.Error as error:
        faults.append(Fault(line, f"not CSV ({error}); check its quotes; the lines after it were not read"))
    return rows, faults


def _checked_header(path: Path, line: int, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    twice = sorted({repr(name) for name in header if header.count(name) > 1})
    if twice:
        raise InvalidData(f"{path}:{line}: the header has {', '.join(twice)} more than once; give each column a name")
    return header
