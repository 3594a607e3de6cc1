"""Which columns of a file hold what: as named, or guessed from their names by fixed lists and said so."""

import collections
import dataclasses
import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

from fieldtune.data.rows import Row
from fieldtune.errors import InvalidData, quoted

Columns: TypeAlias = Mapping[str, str]
"""What a file's columns hold → the name of the column; what is left out is guessed from the columns' names."""
MESSAGES = "messages"
"""The one part whose column has no flag: whole conversations are under this name."""


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """The column of each part, and which of them were guessed."""

    columns: Mapping[str, str]
    guessed: tuple[str, ...]

    @classmethod
    def of(cls, columns: Mapping[str, str], named: Columns) -> "Choice":
        """Return a choice of columns, of which those that were not named are guessed.

        Raises:
            InvalidData: one column for several parts.
        """
        refuse_shared(columns)
        return cls(columns, tuple(part for part in columns if part not in named))

    def note(self, available: Sequence[str]) -> str:
        """Say in one line what was chosen, what of it was guessed, and which columns are left over."""
        chosen = ", ".join(f"{part} from {name!r}" for part, name in self.columns.items())
        flags = [column_flag(part) for part in self.guessed if part != MESSAGES]
        if flags:
            chosen += f" (guessed; name {'it' if len(flags) == 1 else 'them'} with {' and '.join(flags)})"
        unused = [name for name in available if name not in self.columns.values()]
        return f"columns: {chosen}" + (f"; not used: {quoted(unused)}" if unused else "")


class Available:
    """The columns of a file, and how many rows have each."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._counts = collections.Counter(name for row in rows for name in row.cells)
        self.names = list(self._counts)

    def named(self, part: str, named: Columns) -> str:
        """Return the column that is named for a part.

        Raises:
            InvalidData: there is no such column; the nearest is in the message.
        """
        name = named[part]
        if name in self._counts:
            return name
        near = difflib.get_close_matches(name, self.names, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InvalidData(
            f"no column {name!r}, which {column_flag(part)} names{hint}; the columns are {quoted(self.names)}"
        )

    def find(self, wanted: Sequence[str], taken: str | None = None) -> str | None:
        """Return the column most rows have among those of the wanted names; of equals the first wanted."""
        present = [name for want in wanted for name in self.names if name.strip().lower() == want and name != taken]
        return max(present, key=lambda name: self._counts[name], default=None)


def available_columns(rows: Sequence[Row]) -> list[str]:
    """Return the columns that any row has, in order of appearance."""
    return Available(rows).names


def refuse_parts(named: Columns, known: Collection[str], task: str) -> None:
    """Refuse names of columns that a task does not have.

    Raises:
        InvalidData: every such flag is named.
    """
    flags = [column_flag(part) for part in named if part not in known]
    if flags:
        raise InvalidData(f"{' and '.join(flags)} cannot be used: the bundle's task is {task.replace('-', ' ')}")


def refuse_shared(columns: Mapping[str, str]) -> None:
    """Refuse one column for several parts.

    Raises:
        InvalidData: with the parts, in their order.
    """
    for column in sorted(columns.values()):
        parts = [part for part, other in columns.items() if other == column]
        if len(parts) > 1:
            raise InvalidData(f"{' and '.join(parts)} are both column {column!r}; give them different columns")


def column_flag(part: str) -> str:
    """Return the flag that names the column of a part."""
    return f"--{part.replace('_', '-')}-column"
