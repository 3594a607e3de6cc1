"""Files of examples into typed examples; every fault of a file is found before one error lists them."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from fieldtune.data.columns import Choice, Columns, available_columns
from fieldtune.data.examples import Example
from fieldtune.data.rows import DELIMITERS, Fault, Report, Row
from fieldtune.errors import InvalidData, listed


class RowReader(Protocol):
    """What a task makes of the rows of a file."""

    def rows(self, path: Path) -> tuple[list[Row], list[Fault]]:
        """Return the rows of a file that are well formed, and the faults of the others.

        Raises:
            InvalidData: a kind of file that the task does not read, or one that cannot be read at all.
        """

    def choose(self, rows: Sequence[Row], named: Columns, *, labelled: bool) -> Choice:
        """Choose which columns hold what.

        Raises:
            InvalidData: a named column is missing, or no guess can be made.
        """

    def read_row(self, row: Row, choice: Choice, file: Path, fault: Report, *, labelled: bool) -> Example | None:
        """Return the example of a row; None after a fault, of which ``fault`` is told."""

    def advice(self, rows: Sequence[Row], choice: Choice) -> str:
        """Return what to add to a message about faulty rows; "" for nothing."""


def read_examples(
    path: Path, reader: RowReader, columns: Columns, *, labelled: bool = True
) -> tuple[tuple[Example, ...], str]:
    """Read the examples of a .jsonl, .json, .ndjson, .csv or .tsv file.

    Args:
        path: the file.
        reader: of the task.
        columns: names of columns; what it leaves out is guessed.
        labelled: whether what is to be learned must be there. If not, it is not read: the file only says what to run.

    Returns:
        The examples in the file's order, and a line for people that says which columns were taken and which guessed.

    Raises:
        InvalidData: the file cannot be read, holds nothing, or has faulty lines; all of them are named, up to 20.
    """
    rows, faults = reader.rows(path)
    if not rows:
        _raise_any(path, faults)
        raise InvalidData(f"{path}: holds no examples; expected one a line")
    try:
        choice = reader.choose(rows, columns, labelled=labelled)
    except InvalidData as error:
        # A file without its header would lose its first example to it, so the doubt is worth a hint.
        hint = " (is the header line missing?)" if path.suffix.lower() in DELIMITERS else ""
        raise InvalidData(f"{path}: {error}{hint}{_list(path, faults)}") from error
    examples: list[Example] = []
    for row in rows:
        fault = functools.partial(_add, faults, row)
        example = reader.read_row(row, choice, path, fault, labelled=labelled)
        if example is not None:
            examples.append(example)
    _raise_any(path, faults, reader.advice(rows, choice) if faults else "")
    return tuple(examples), choice.note(available_columns(rows))


def _add(faults: list[Fault], row: Row, message: str) -> None:
    faults.append(Fault(row.line, message, row.place))


def _list(path: Path, faults: Sequence[Fault]) -> str:
    ordered = sorted(faults, key=lambda fault: fault.line)
    return listed([f"{path}:{fault.place or fault.line}: {fault.message}" for fault in ordered])


def _raise_any(path: Path, faults: Sequence[Fault], advice: str = "") -> None:
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise InvalidData(f"{path}: {count}{advice}{_list(path, faults)}")
