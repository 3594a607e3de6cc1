"""SQuAD's nested form: a row for each question, and a fault with its place for whatever is none."""

import json

import pytest

from fieldtune.data.squad import squad_articles, squad_rows
from fieldtune.errors import InvalidData

QUESTION = {"question": "?", "id": "1", "answers": []}
PARAGRAPH = {"context": "c", "qas": [QUESTION, {"question": "!", "context": "own"}]}


@pytest.fixture
def articles(tmp_path):
    """The function that reads the articles of a file with this text."""

    def read(text):
        path = tmp_path / "a.json"
        path.write_text(text, encoding="utf-8")
        return squad_articles(path)

    return read


def test_a_row_for_each_question_with_its_context(articles):
    rows, faults = squad_rows(articles(json.dumps({"version": "2", "data": [{"paragraphs": [PARAGRAPH]}]})))
    assert faults == []
    assert [row.place for row in rows] == ["data[0].paragraphs[0].qas[0]", "data[0].paragraphs[0].qas[1]"]
    assert rows[0].cells == {"context": "c", **QUESTION}
    assert rows[1].cells["context"] == "own"


@pytest.mark.parametrize("text", ['{"question": "?"}\n{"question": "!"}', '{"question": "?"}', '{"a": 1}\n{"b": '])
def test_a_file_with_an_object_a_line_has_no_articles(articles, text):
    assert articles(text) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"data": [\n{]}', r":2: not JSON \(.*column 2\); expected .*, or one JSON object a line"),
        ("[]", r"a\.json: a list; expected SQuAD's form"),
        ("3", r"a\.json: a number \(3\); expected SQuAD's form"),
        ('{"data": 3}', r"an object with 'data', 'data' is a number \(3\); expected"),
        ('{\n"rows": []}', "an object with 'rows', no 'data'; expected"),
        ("[" * 100_000, r"a\.json: not JSON \("),
    ],
    ids=["cut", "a list", "a number", "no list", "no data", "too deep"],
)
def test_what_is_neither_form(articles, text, says):
    with pytest.raises(InvalidData, match=says):
        articles(text)


@pytest.mark.parametrize(
    ("given", "place", "message"),
    [
        ([3], "data[0]", "a number (3); expected an object"),
        ([{}], "data[0]", "no 'paragraphs'; it has nothing"),
        ([{"paragraphs": 3}], "data[0].paragraphs", "a number (3); expected a list"),
        ([{"paragraphs": [{"qas": []}]}], "data[0].paragraphs[0]", "no 'context'; it has 'qas'"),
        ([{"paragraphs": [{}]}], "data[0].paragraphs[0]", "no 'context' and no 'qas'; it has nothing"),
        (
            [{"paragraphs": [{"context": "c", "qas": [{}]}]}],
            "data[0].paragraphs[0].qas[0]",
            "no 'question'; it has nothing",
        ),
    ],
)
def test_a_fault_has_its_place_and_the_rest_is_read(given, place, message):
    rows, faults = squad_rows([*given, {"paragraphs": [PARAGRAPH]}])
    assert len(rows) == 2
    assert [(fault.place, fault.message) for fault in faults] == [(place, message)]
