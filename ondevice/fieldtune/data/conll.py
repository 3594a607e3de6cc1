"""Files of columns as CoNLL's tasks have them: a token a line, its tag last, and an empty line between sentences."""

from collections.abc import Sequence
from pathlib import Path

from fieldtune.data.rows import (
    Fault,
    Row,
    read_text,
    shortened,
)

CONLL_SUFFIXES = (".conll", ".bio", ".iob", ".iob2", ".txt")


FIRST, LAST = "first column", "last column"


def read_conll(path: Path) -> tuple[list[Row], list[Fault]]:
    """Read one token a line, its tag last, and an empty line between sentences."""
    lines: list[tuple[int, list[str]]] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip() or line.startswith("-DOCSTART-"):
            lines.append((number, []))
        else:
            cells = line.strip("\r").split("\t") if "\t" in line.strip("\r ") else line.split()
            lines.append((number, [cell.strip() for cell in cells]))
    sizes = [len(cells) for _, cells in lines if cells]
    tagged = any(size > 1 for size in sizes)
    faults: list[Fault] = []
    rows: list[Row] = []
    sentence: list[tuple[int, list[str]]] = []
    for number, cells in (*lines, (0, [])):
        if cells:
            sentence.append((number, cells))
            if message := _conll_fault(cells, sizes[0], tagged=tagged):
                faults.append(Fault(number, message))
        elif sentence:
            columns = {FIRST: [cells[0] for _, cells in sentence]}
            rows.append(Row(sentence[0][0], {**columns, LAST: [c[-1] for _, c in sentence]} if tagged else columns))
            sentence = []
    broken = {fault.line for fault in faults}
    return [row for row in rows if broken.isdisjoint(range(row.line, row.line + len(row.cells[FIRST])))], faults


def _conll_fault(cells: Sequence[str], size: int, *, tagged: bool) -> str:
    if not cells[0]:
        return "an empty token; expected the token first"
    if tagged and (len(cells) < 2 or not cells[-1]):
        return f"{shortened(cells[0])} has no tag; expected the token first and its tag last"
    return f"{len(cells)} columns; the first line has {size}" if len(cells) != size else ""
