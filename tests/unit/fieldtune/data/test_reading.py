import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from fieldtune.data.columns import Available, Choice, Columns
from fieldtune.data.dialogue import TextExample
from fieldtune.data.reading import read_examples
from fieldtune.data.rows import Fault, Report, Row, read_rows, text_of
from fieldtune.errors import InvalidData


class Texts:
    """Takes the column ``text``, or the one that is named, and advises by the number of rows."""

    def rows(self, path: Path) -> tuple[list[Row], list[Fault]]:
        return read_rows(path)

    def choose(self, rows: Sequence[Row], named: Columns, *, labelled: bool) -> Choice:
        columns = Available(rows)
        return Choice.of({"text": columns.named("text", {"text": "text", **named})}, named)

    def read_row(self, row: Row, choice: Choice, file: Path, fault: Report, *, labelled: bool) -> TextExample | None:
        text = text_of(row, choice.columns["text"], fault)
        return None if text is None else TextExample(text=text, where=row.where(file))

    def advice(self, rows: Sequence[Row], choice: Choice) -> str:
        return f"; {len(rows)} rows were read"


def save(path: Path, *records: object) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def message_of(path: Path, reader: Texts | None = None) -> str:
    with pytest.raises(InvalidData) as caught:
        read_examples(path, reader or Texts(), {})
    return str(caught.value)


def test_examples_come_in_the_file_s_order_with_a_note(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jsonl", {"text": "one", "id": 1}, {"text": "two"})
    examples, note = read_examples(path, Texts(), {})
    assert examples == (TextExample(text="one"), TextExample(text="two"))
    assert [example.where for example in examples] == [f"{path}:1", f"{path}:2"]
    assert note == "columns: text from 'text' (guessed; name it with --text-column); not used: 'id'"


def test_the_faults_of_lines_and_of_rows_come_together_by_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n{"text": \n{"text": " "}\n{"label": 0}\n[]\n')
    assert message_of(path).splitlines() == [
        f"{path}: 4 faults; 3 rows were read",
        f"  - {path}:2: not JSON (Expecting value, column 10)",
        f"  - {path}:3: 'text' is empty",
        f"  - {path}:4: no column 'text'; it has 'label'",
        f"  - {path}:5: a list; expected a JSON object",
    ]


def test_at_most_twenty_faults_are_listed(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jsonl", *[{"text": "", "label": 1}] * 30)
    lines = message_of(path).splitlines()
    assert lines[0] == f"{path}: 30 faults; 30 rows were read"
    assert len(lines) == 22
    assert lines[-1].strip() == "… and 10 more"


def test_empty_files(tmp_path: Path) -> None:
    for name, content in (("a.jsonl", ""), ("b.jsonl", "\n \n"), ("a.csv", ""), ("b.csv", "text,label\n")):
        (tmp_path / name).write_text(content)
        assert "holds no examples" in message_of(tmp_path / name)
    (tmp_path / "c.jsonl").write_text("{\n")
    assert "c.jsonl: 1 fault\n" in message_of(tmp_path / "c.jsonl")


def test_a_choice_that_fails_comes_with_the_other_faults(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("good film,positive\nbad film,negative\none,two,three\n")
    message = message_of(path)
    assert "the columns are 'good film', 'positive' (is the header line missing?)" in message
    assert f"{path}:3: 3 cells; the header has 2" in message


class Places(Texts):
    """Its records are known by a place of their own."""

    def rows(self, path: Path) -> tuple[list[Row], list[Fault]]:
        faults = [Fault(2, "no record", "record 2")]
        return [Row(1, {"text": "fine"}, "record 1"), Row(3, {"text": ""}, "record 3")], faults


def test_a_record_s_own_place_takes_the_place_of_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.records"
    assert message_of(path, Places()).splitlines() == [
        f"{path}: 2 faults; 2 rows were read",
        f"  - {path}:record 2: no record",
        f"  - {path}:record 3: 'text' is empty",
    ]
    assert Row(1, {}, "record 1").where(path) == f"{path}:record 1"
    assert Row(7, {}).where(path) == f"{path}:7"
