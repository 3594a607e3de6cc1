"""Columns of tokens and tags: sentences between empty lines, and every line of another form as a fault."""

import pytest

from fieldtune.data.conll import FIRST, LAST, read_conll
from fieldtune.data.rows import Fault
from fieldtune.errors import InvalidData


@pytest.fixture
def read(tmp_path):
    """The function that reads a text as such a file: each row as its line, tokens and tags, and the faults."""

    def read(text):
        path = tmp_path / "a.conll"
        path.write_text(text, encoding="utf-8")
        rows, faults = read_conll(path)
        return [(row.line, row.cells[FIRST], row.cells.get(LAST)) for row in rows], faults

    return read


def test_a_token_a_line_its_tag_last(read):
    text = "Ada NNP B-per\nwrote VBD O\n\n\nLondon NNP B-loc\n"
    assert read(text) == ([(1, ["Ada", "wrote"], ["B-per", "O"]), (5, ["London"], ["B-loc"])], [])


def test_lines_between_documents_end_a_sentence(read):
    text = "-DOCSTART- -X- O\n\na O\n-DOCSTART-\nb O"
    assert read(text) == ([(3, ["a"], ["O"]), (5, ["b"], ["O"])], [])


def test_tabs_separate_tokens_that_hold_spaces(read):
    assert read("New York\tB-loc\r\nis\tO\r\n") == ([(1, ["New York", "is"], ["B-loc", "O"])], [])


def test_tokens_alone_have_no_tags(read):
    assert read("a\nb\n") == ([(1, ["a", "b"], None)], [])


@pytest.mark.parametrize("text", ["", "\n\n", "-DOCSTART- O\n"])
def test_a_file_without_tokens(read, text):
    assert read(text) == ([], [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("alone", "'alone' has no tag; expected the token first and its tag last"),
        ("a b O", "3 columns; the first line has 2"),
        ("\tO", "an empty token; expected the token first"),
        ("b\t", "'b' has no tag; expected the token first and its tag last"),
    ],
)
def test_a_line_of_another_form_is_a_fault_and_its_sentence_is_left_out(read, line, message):
    rows, faults = read(f"a O\n\nx O\n{line}\ny O\n\nz O\n")
    assert rows == [(1, ["a"], ["O"]), (7, ["z"], ["O"])]
    assert faults == [Fault(4, message)]


def test_what_is_no_text(tmp_path):
    (tmp_path / "a.conll").write_bytes(b"a O\n\xff O\n")
    with pytest.raises(InvalidData, match=r"a\.conll:2: not UTF-8 text"):
        read_conll(tmp_path / "a.conll")
