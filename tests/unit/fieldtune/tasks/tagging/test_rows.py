import json

import pytest

from fieldtune.data.rows import Row
from fieldtune.errors import InvalidData
from fieldtune.tasks.tagging.rows import choose_pair
from fieldtune.tasks.tagging.texts import Span, SpansExample, WordsExample


def save(path, *records):
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def message_of(path, task, *, labelled=True, **columns):
    with pytest.raises(InvalidData) as caught:
        task.read(path, columns, labelled=labelled)
    return str(caught.value).splitlines()


def chosen(names, *, labelled=True, **named):
    return dict(choose_pair([Row(1, dict.fromkeys(names, "x"))], named, labelled=labelled).columns)


def test_columns_are_guessed():
    assert chosen(["id", "tokens", "pos_tags", "ner_tags"]) == {"tokens": "tokens", "tags": "ner_tags"}
    assert chosen(["Words", "Tags"]) == {"tokens": "Words", "tags": "Tags"}
    assert chosen(["text", "entities"]) == {"text": "text", "spans": "entities"}
    assert chosen(["text", "tokens", "spans"]) == {"text": "text", "spans": "spans"}, "tokens have no tags"
    assert chosen(["t", "n"], tokens="t", tags="n") == {"tokens": "t", "tags": "n"}
    assert chosen(["tokens", "tags", "text", "s"], spans="s") == {"text": "text", "spans": "s"}
    assert chosen(["text", "tags"], labelled=False) == {"text": "text"}
    assert chosen(["tokens", "tags", "text"], labelled=False) == {"tokens": "tokens"}


def test_a_choice_is_needed():
    with pytest.raises(InvalidData, match=r"the columns are 'tokens', 'text'; expected tokens and tags"):
        chosen(["tokens", "text"])
    with pytest.raises(InvalidData, match="--tokens-column and --tags-column go without --text-column and --spans-"):
        chosen(["a", "b"], tokens="a", spans="b")
    with pytest.raises(InvalidData, match=r"no column 'tag', which --tags-column names \(did you mean 'tags'\?\)"):
        chosen(["tokens", "tags"], tags="tag")
    with pytest.raises(InvalidData, match="tokens and tags are both column 'a'"):
        chosen(["a"], tokens="a", tags="a")


def test_words_and_tags_by_name_and_index(tmp_path, tagger):
    path = save(
        tmp_path / "a.jsonl",
        {"tokens": ["New", "York", "!"], "ner_tags": ["B-place", "I-place", "O"]},
        {"tokens": ["Ann"], "ner_tags": [1]},
    )
    examples, note = tagger().read(path)
    assert examples == (
        WordsExample(words=("New", "York", "!"), tags=(3, 4, 0)), WordsExample(words=("Ann",), tags=(1,)),
    )  # fmt: skip
    assert [example.where for example in examples] == [f"{path}:1", f"{path}:2"]
    assert note == (
        "columns: tokens from 'tokens', tags from 'ner_tags' "
        "(guessed; name them with --tokens-column and --tags-column)"
    )
    assert tagger().read(path, labelled=False)[0][1] == WordsExample(words=("Ann",))


def test_texts_and_spans(tmp_path, tagger):
    spans = [{"start": 4, "end": 12, "label": "place"}, {"start": 0, "end": 3, "label": "person"}]
    path = save(tmp_path / "a.jsonl", {"text": "Ann New York", "spans": spans}, {"text": "nobody", "spans": []})
    assert tagger().read(path)[0] == (
        SpansExample(text="Ann New York", spans=(Span(0, 3, "person"), Span(4, 12, "place"))),
        SpansExample(text="nobody", spans=()),
    )
    assert tagger().read(path, labelled=False)[0][0] == SpansExample(text="Ann New York")


@pytest.mark.parametrize("suffix", [".conll", ".bio", ".iob", ".iob2", ".TXT"])
def test_conll_columns(tmp_path, suffix, tagger):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(
        "\ufeff-DOCSTART- -X- O O\n\nNew NNP B-NP B-place\nYork NNP I-NP I-place\r\n\t\n\n! . O O\n".encode()
    )
    examples, note = tagger().read(path)
    assert examples == (WordsExample(words=("New", "York"), tags=(3, 4)), WordsExample(words=("!",), tags=(0,)))
    assert [example.where for example in examples] == [f"{path}:3", f"{path}:7"]
    assert note == "columns: tokens from 'first column', tags from 'last column'"
    assert tagger().read(path, labelled=False)[0][0] == WordsExample(words=("New", "York"))


def test_conll_columns_by_tabs(tmp_path, tagger):
    path = tmp_path / "a.conll"
    path.write_text("New York\tB-place\n.\tO")
    assert tagger().read(path)[0] == (WordsExample(words=("New York", "."), tags=(3, 0)),)


def test_conll_words_alone_can_be_run_only(tmp_path, tagger):
    path = tmp_path / "a.txt"
    path.write_text("Ann\nsings\n\nso\n")
    examples, _ = tagger().read(path, labelled=False)
    assert examples == (WordsExample(words=("Ann", "sings")), WordsExample(words=("so",)))
    assert message_of(path, tagger()) == [f"{path}: no line has a tag; expected the token first and its tag last"]


def test_every_fault_of_conll_columns(tmp_path, tagger):
    path = tmp_path / "a.conll"
    path.write_text("Ann\tO\nsings\n\tO\nso\t\n\nall\tB-plaec\na\tb\tO\n")
    assert message_of(path, tagger()) == [
        f"{path}: 4 faults",
        f"  - {path}:2: 'sings' has no tag; expected the token first and its tag last",
        f"  - {path}:3: an empty token; expected the token first",
        f"  - {path}:4: 'so' has no tag; expected the token first and its tag last",
        f"  - {path}:7: 3 columns; the first line has 2",
    ]


def test_no_such_kind_of_file(tmp_path, tagger):
    (message,) = message_of(tmp_path / "a.xml", tagger())
    assert message.endswith(
        "(suffix '.xml'); expected one of .jsonl, .json, .ndjson, .csv, .tsv, or CoNLL columns in one of .conll, .bio, "
        ".iob, .iob2, .txt"
    )
    assert "a.conll: no such file" in message_of(tmp_path / "a.conll", tagger())[0]


def test_every_fault_of_words_and_tags(tmp_path, tagger):
    path = save(
        tmp_path / "a.jsonl",
        {"tokens": ["a", "b", "c"], "tags": ["O", "O"]},
        {"tokens": ["a", " "], "tags": ["B-persn", "S-person"]},
        {"tokens": ["a", 3], "tags": [7, None]},
        {"tokens": "a b", "tags": ["O"]},
        {"tokens": [], "tags": []},
        {"tokens": ["a"]},
    )
    lines = message_of(path, tagger())
    assert lines[0] == (
        f"{path}: 11 faults; the labels are 0 'O', 1 'B-person', 2 'I-person', 3 'B-place', 4 'I-place'"
    )
    assert [line.removeprefix(f"  - {path}:") for line in lines[1:]] == [
        "1: 'tokens' has 3 words and 'tags' 2 tags; expected a tag for each word",
        "2: 'tokens': token 2 is empty",
        "2: 'tags': tag 1: label 'B-persn' is unknown (did you mean 'B-person'?)",
        (
            "2: 'tags': tag 2: 'S-person' is not of BIO, which the bundle's labels are in; expected O or B-, I- "
            "before a type"
        ),
        "3: 'tokens': token 2 is a number (3); expected a string",
        "3: 'tags': tag 1: label '7': no such index; expected 0 to 4",
        "3: 'tags': tag 2: no label",
        "4: 'tokens' is a string ('a b'); expected a list",
        "5: 'tokens' is an empty list",
        "5: 'tags' is an empty list",
        "6: no column 'tags'; it has 'tokens'",
    ]


def test_every_fault_of_spans(tmp_path, tagger):
    def row(*spans):
        return {"text": "Ann in New York", "spans": list(spans)}

    def span(start, end, label="place"):
        return {"start": start, "end": end, "label": label}

    path = save(
        tmp_path / "a.jsonl",
        row(span(7, 16), span(5, 5), span(-1, 3)),
        row(span(6, 15), span(3, 4)),
        row(span(7, 15), span(0, 3, "person"), span(11, 15)),
        row(span(0, 3, "persn"), span(0, 3, None), span(0.0, 3), [0, 3, "person"]),
        {"text": "Ann", "spans": "none"},
    )
    lines = message_of(path, tagger())
    assert lines[0] == f"{path}: 11 faults"
    within = "expected one that begins before its end, within the text's 15 characters"
    assert [line.removeprefix(f"  - {path}:") for line in lines[1:]] == [
        f"1: 'spans': span 1: is 7 to 16; {within}",
        f"1: 'spans': span 2: is 5 to 5; {within}",
        f"1: 'spans': span 3: is -1 to 3; {within}",
        (
            "2: 'spans': span 1: is 6 to 15 (' New York'), which begins or ends with white space; did you mean 7 to 15 "
            "('New York')?"
        ),
        "2: 'spans': span 2: is 3 to 4 (' '), which begins or ends with white space",
        "3: 'spans': span 7 to 15 ('New York') and span 11 to 15 ('York') overlap; a word has one tag",
        "4: 'spans': span 1: its label is 'persn' (did you mean 'person'?); the types are 'person', 'place'",
        "4: 'spans': span 2: its label is null; the types are 'person', 'place'",
        "4: 'spans': span 3: its start is a number (0.0); expected a number of characters",
        "4: 'spans': span 4: is a list; expected an object of start, end and label",
        "5: 'spans' is a string ('none'); expected a list",
    ]
