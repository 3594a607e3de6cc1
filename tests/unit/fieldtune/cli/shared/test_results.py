"""Results on stdout: JSON for machines, tables for people, and figures in words."""

import io
import json
from pathlib import Path

from rich.console import Console

from fieldtune.cli.shared.results import evaluation_rows, new_table, percent, print_json, print_tables, said, say
from fieldtune.tasks.interface import Figure
from fieldtune.training.evaluation import Evaluation


def evaluation(loss, *figures):
    return Evaluation(examples=4, labels=4, loss=loss, figures=figures, seconds=1.0)


def test_json_is_one_object_and_its_paths_are_texts(capsys):
    print_json({"out": Path("a/größe"), "loss": 0.5})
    assert json.loads(capsys.readouterr().out) == {"out": "a/größe", "loss": 0.5}


def test_a_line_is_said_as_it_is():
    console = Console(file=io.StringIO(), width=20)
    line = "models/[bold]x[/v2]/adapter: 12 examples, :smile: and more than twenty columns"
    say(console, line)
    assert console.file.getvalue() == f"{line}\n"


def test_nothing_in_a_table_is_markup_or_an_emoji(capsys):
    words = ["[neg], :fire:, pos", "adapters[/v2]/x", "[red]"]
    table = new_table("Bundle [a] :smile:", ("[label]", ":heart:"))
    for word in words:
        table.add_row(word, "1")
    print_tables(table)
    printed = capsys.readouterr().out
    assert all(word in printed for word in (*words, "Bundle [a] :smile:", "[label]", ":heart:"))


def test_a_pipe_gets_whole_cells_and_titles(capsys):
    cell, title = "x" * 300, "a title that is longer than the rows " * 4
    table = new_table(title, ("name", ">count"))
    table.add_row(cell, "7")
    print_tables(table)
    printed = capsys.readouterr().out
    assert f"{title}\n" in printed
    assert next(line for line in printed.splitlines() if cell in line).split() == [cell, "7"]


def test_a_table_without_names_of_columns_has_no_head(capsys):
    table = new_table("Training", ("", ">"))
    table.add_row("loss", "0.5")
    print_tables(table)
    assert [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()] == [
        ["Training"],
        ["loss", "0.5"],
    ]


def test_numbers_stand_on_the_right():
    table = new_table("", ("name", ">count"))
    assert [(column.header, column.justify) for column in table.columns] == [("name", "left"), ("count", "right")]


def test_a_part_is_percent_and_what_is_unknown_a_dash():
    assert (percent(0.8333), percent(1.0), percent(0.0), percent(None)) == ("83.3 %", "100.0 %", "0.0 %", "-")
    assert said(Figure(name="accuracy", value=0.5, unit="%")) == "50.0 %"
    assert said(Figure(name="perplexity", value=12.3456)) == "12.35"


def test_evaluations_stand_side_by_side_and_what_one_lacks_is_a_dash():
    first = evaluation(0.70001, Figure(name="f1", value=0.25, unit="%", title="F1"))
    last = evaluation(0.4, Figure(name="f1", value=0.5, unit="%", title="F1"), Figure(name="exact_match", value=0.0))
    assert evaluation_rows((first, last)) == [
        ["loss", "0.7000", "0.4000"],
        ["F1", "25.0 %", "50.0 %"],
        ["exact match", "-", "0.00"],
    ]
    assert evaluation_rows((first, None)) == [["loss", "0.7000", "-"], ["F1", "25.0 %", "-"]]
    assert evaluation_rows((None, None)) == []
