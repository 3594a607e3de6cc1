"""Cells of a label column into the indices of classes."""

import difflib
from collections.abc import Sequence

from fieldtune.data.rows import kind_of, shortened

MOST_LABELS_SHOWN = 20


class LabelIndex:
    """Finds the class that a cell names.

    A string is a label's name, else an index in decimal. An integer is an index, except where the names of labels are
    themselves integers (stars from "1" to "5"): there it is a name, and nothing is an index.

    Args:
        labels: names of the classes in the order of the logits.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = tuple(labels)
        self._by_name = {name: index for index, name in enumerate(labels)}
        self._numbered = any(_is_integer(name) for name in labels)

    def find(self, cell: object) -> int | str:
        """Return the index of the class, or what is wrong with the cell."""
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            return "no label"
        if isinstance(cell, bool) or not isinstance(cell, int | str):
            return f"the label is {kind_of(cell)}; expected a label's name or its index"
        name = str(cell).strip()
        if name in self._by_name:
            return self._by_name[name]
        if _is_integer(name) and not self._numbered:
            # Python refuses to read integers of thousands of digits; no index has ten.
            if len(name) < 10 and 0 <= int(name) < len(self._labels):
                return int(name)
            return f"label {shortened(name)}: no such index; expected 0 to {len(self._labels) - 1}"
        return f"label {shortened(name)} is unknown{self._nearest(name)}"

    def known(self) -> str:
        """Name the labels for a message, a long list shortened."""
        shown = ", ".join(f"{index} {name!r}" for index, name in enumerate(self._labels[:MOST_LABELS_SHOWN]))
        more = len(self._labels) - MOST_LABELS_SHOWN
        return f"{shown}, … and {more} more" if more > 0 else shown

    def _nearest(self, name: str) -> str:
        folded = {label.casefold(): label for label in self._labels}
        near = difflib.get_close_matches(name.casefold(), folded, n=1)
        return f" (did you mean {folded[near[0]]!r}?)" if near else ""


def _is_integer(name: str) -> bool:
    # isdecimal() also holds for digits of other scripts, which int() reads, too; no label means an index by those.
    return name.isascii() and name.removeprefix("-").isdecimal()
