"""Results on stdout: one JSON document for machines, or tables for people; and notes on stderr."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fieldtune.files import json_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fieldtune.tasks import Figure
    from fieldtune.training import Evaluation


def print_json(value: object) -> None:
    """Print one JSON object."""
    sys.stdout.write(json_text(value))


def say(console: "Console", line: str) -> None:
    """Print a line as it is: paths are neither marked up nor broken, and no word in colons becomes a picture."""
    console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)


def print_tables(*tables: "Table") -> None:
    """Print tables as wide as the terminal, or as they need where there is none; cells are taken as they are."""
    from rich.console import Console

    # Names of labels, paths and what a file says may look like markup or an emoji.
    console = Console(markup=False, emoji=False)
    for table in tables:
        if not console.is_terminal:
            # Whatever reads a pipe wants whole cells.
            console.width = max(
                console.width, console.measure(table, options=console.options.update(width=1000)).maximum
            )
        # A table would break a title that is longer than its rows.
        title, table.title = table.title, None
        console.print(title, style="bold", highlight=False, soft_wrap=True)
        console.print(table)
        if not table.show_edge:
            console.print()


def new_table(title: str, columns: Sequence[str] = ("", "")) -> "Table":
    """Return an empty table; a column whose name starts with ``>`` is of numbers, on the right."""
    from rich import box
    from rich.table import Table

    headed = any(column.strip(">") for column in columns)
    table = Table(title=title, box=box.SIMPLE_HEAD, show_header=headed, show_edge=headed)
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    return table


def percent(part: float | None) -> str:
    """Return a part of 1 as percent, a dash for None."""
    return "-" if part is None else f"{100 * part:.1f} %"


def evaluation_rows(evaluations: Sequence["Evaluation | None"]) -> list[list[str]]:
    """Return the rows of a table with an evaluation in each column: figures that none of them has are left out."""
    columns = [_figures(evaluation) if evaluation else {} for evaluation in evaluations]
    names = dict.fromkeys(name for column in columns for name in column)
    return [[name, *(column.get(name, "-") for column in columns)] for name in names]


def _figures(evaluation: "Evaluation") -> dict[str, str]:
    return {"loss": f"{evaluation.loss:.4f}", **{figure.words: said(figure) for figure in evaluation.figures}}


def said(figure: "Figure") -> str:
    """Return a figure's value for people."""
    return percent(figure.value) if figure.unit == "%" else f"{figure.value:.2f}"
