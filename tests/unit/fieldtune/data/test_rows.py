from pathlib import Path

import pytest

from fieldtune.data.rows import Fault, Row, kind_of, read_rows
from fieldtune.errors import InvalidData


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_json_lines_keep_their_numbers(tmp_path: Path) -> None:
    rows, faults = read_rows(write(tmp_path / "a.jsonl", '{"a": 1}\r\n\n  {"a": "x\u2028y"}\n'))
    assert rows == [Row(1, {"a": 1}), Row(3, {"a": "x\u2028y"})]
    assert faults == []


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".ndjson", ".JSONL"])
def test_every_json_suffix(tmp_path: Path, suffix: str) -> None:
    assert read_rows(write(tmp_path / f"a{suffix}", '{"a": 1}'))[0] == [Row(1, {"a": 1})]


def test_all_faults_of_json_lines_are_gathered(tmp_path: Path) -> None:
    rows, faults = read_rows(write(tmp_path / "a.jsonl", '{"a": }\n[1]\n{"a": 1}\n"x"\n{"a":' + "9" * 5000 + "}\n"))
    assert rows == [Row(3, {"a": 1})]
    assert faults[:3] == [
        Fault(1, "not JSON (Expecting value, column 7)"),
        Fault(2, "a list; expected a JSON object"),
        Fault(4, "a string ('x'); expected a JSON object"),
    ]
    assert [fault.line for fault in faults[3:]] == [5], "a number of more digits than Python reads"


def test_json_nested_too_deeply_is_a_fault(tmp_path: Path) -> None:
    _, faults = read_rows(write(tmp_path / "a.jsonl", '{"a": ' + "[" * 100_000 + "\n{}\n"))
    assert [fault.line for fault in faults] == [1]


def test_csv_rows_span_lines_and_keep_the_first(tmp_path: Path) -> None:
    text = 'text,label\n"one\ntwo, three",a\n\nfour,b\n"say ""hi""",c\n'
    rows, faults = read_rows(write(tmp_path / "a.csv", text))
    assert rows == [
        Row(2, {"text": "one\ntwo, three", "label": "a"}),
        Row(5, {"text": "four", "label": "b"}),
        Row(6, {"text": 'say "hi"', "label": "c"}),
    ]
    assert faults == []


def test_csv_rows_of_another_width(tmp_path: Path) -> None:
    rows, faults = read_rows(write(tmp_path / "a.csv", "a,b\n1\n1,2\n1,2,3\n"))
    assert rows == [Row(3, {"a": "1", "b": "2"})]
    assert faults == [Fault(2, "1 cells; the header has 2"), Fault(4, "3 cells; the header has 2")]


def test_an_open_quote_does_not_swallow_the_file(tmp_path: Path) -> None:
    rows, faults = read_rows(write(tmp_path / "a.csv", 'a,b\n1,2\n"3,4\n5,6\n'))
    assert rows == [Row(2, {"a": "1", "b": "2"})]
    assert [fault.line for fault in faults] == [3]
    assert "lines after it were not read" in faults[0].message


def test_tabs_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", b"\xef\xbb\xbftext\tlabel\na, b\tx\n")
    assert read_rows(path)[0] == [Row(2, {"text": "a, b", "label": "x"})]


def test_a_column_twice(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"a\.csv:1: the header has 'a' more than once"):
        read_rows(write(tmp_path / "a.csv", "a,b,a\n1,2,3\n"))


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"none\.csv: no such file"):
        read_rows(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InvalidData, match=r"folder\.csv: cannot be read \(Is a directory\)"):
        read_rows(tmp_path / "folder.csv")
    with pytest.raises(InvalidData, match=r"a\.txt: unknown kind of file .* expected one of \.jsonl"):
        read_rows(write(tmp_path / "a.txt", "x"))
    with pytest.raises(InvalidData, match=r"a\.jsonl:3: not UTF-8 text \(byte 0xe9\)"):
        read_rows(write(tmp_path / "a.jsonl", b"{}\n{}\ncaf\xe9\n"))
    with pytest.raises(InvalidData, match="a JSON array; expected one JSON object a line"):
        read_rows(write(tmp_path / "a.json", '\n[{"a": 1}]'))


def test_kinds_of_cells() -> None:
    assert kind_of(True) == "a truth value (true)"
    assert kind_of(1.5) == "a number (1.5)"
    assert kind_of(None) == "null"
    assert kind_of({}) == "an object"
    assert kind_of("x" * 50) == f"a string ('{'x' * 39}…')"
