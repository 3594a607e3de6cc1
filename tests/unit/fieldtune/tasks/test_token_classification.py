import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from fieldtune.bundle.manifest import TaskSpec, TextSpec
from fieldtune.data.rows import Row
from fieldtune.errors import InvalidBundle, InvalidData
from fieldtune.tasks.entities import Entity, entities, scheme_of, strict_entities, tags_of
from fieldtune.tasks.interface import Task
from fieldtune.tasks.table import new_task
from fieldtune.tasks.text_classification import ClassificationExample
from fieldtune.tasks.token_classification import Entities, NamedEntity, Span, SpansExample, WordsExample

BIO = ("O", "B-person", "I-person", "B-place", "I-place")
IOBES = ("O", *(f"{prefix}-{kind}" for kind in ("person", "place") for prefix in "BIES"))
Make = Callable[..., Task]


def made(labels: tuple[str, ...] = BIO, text: TextSpec | None = None, tokenizer: Tokenizer | None = None) -> Task:
    task = new_task(TaskSpec(name="token-classification", labels=labels), text=text)
    if tokenizer is not None:
        task.__dict__["tokenizer"] = tokenizer
    return task


@pytest.fixture
def pieces() -> Tokenizer:
    """BERT's way: white space and punctuation part words, and letters are their pieces."""
    letters = "abcdefghijklmnopqrstuvwxyz'.,-@"
    vocabulary = {piece: number for number, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "new", "york"])}
    for piece in (*letters, *(f"##{letter}" for letter in letters)):
        vocabulary[piece] = len(vocabulary)
    built = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    built.normalizer = normalizers.BertNormalizer(lowercase=True)
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    built.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return built


def save(path: Path, *records: object) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def message_of(path: Path, task: Task, *, labelled: bool = True, **columns: str) -> list[str]:
    with pytest.raises(InvalidData) as caught:
        task.read(path, columns, labelled=labelled)
    return str(caught.value).splitlines()


def chosen(names: list[str], *, labelled: bool = True, **named: str) -> dict[str, str]:
    return dict(made().choose([Row(1, dict.fromkeys(names, "x"))], named, labelled=labelled).columns)


# --- tags


def test_the_scheme_is_found_from_the_labels() -> None:
    assert scheme_of(BIO) == scheme_of(("I-x", "O", "B-x")) == scheme_of(("O", "B-geo-loc")) == "BIO"
    assert scheme_of(IOBES) == "IOBES"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("LABEL_0", "LABEL_1"), "labels of no scheme: 'LABEL_0', 'LABEL_1'; expected O and, for each type"),
        (("NOUN", "VERB", "O"), "of no scheme: 'NOUN', 'VERB'"),
        (("B-x", "I-x"), "of no scheme: there is no O"),
        (("O",), "there is only O"),
        ((), "there is no O"),
        (("O", "B-", "I-x"), "of no scheme: 'B-'"),
        (("O", "L-x", "U-x", "B-x"), "of no scheme: 'L-x', 'U-x'"),
        (("O", "I-x"), "labels of BIO without 'B-x'"),
        (("O", "B-x", "I-x", "E-x"), "labels of IOBES without 'S-x'"),
    ],
)
def test_labels_of_no_scheme(labels: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scheme_of(labels)
    with pytest.raises(InvalidBundle, match="token-classification: labels"):
        _ = made(labels).scheme


def test_entities_leniently_and_strictly() -> None:
    tags = ["O", "I-person", "I-person", "B-place", "I-person", "O", "B-person", "I-person"]
    assert entities(tags) == [
        Entity("person", 1, 2), Entity("place", 3, 3), Entity("person", 4, 4), Entity("person", 6, 7),
    ]  # fmt: skip
    assert strict_entities(tags, "BIO") == [Entity("place", 3, 3), Entity("person", 6, 7)]
    tags = ["B-person", "E-person", "S-place", "B-place", "I-place", "O", "E-place"]
    assert strict_entities(tags, "IOBES") == [Entity("person", 0, 1), Entity("place", 2, 2)]
    assert entities(tags)[2:] == [Entity("place", 3, 4), Entity("place", 6, 6)]


def test_tags_of_entities() -> None:
    found = [Entity("person", 0, 2), Entity("place", 3, 3)]
    assert tags_of(found, 5, "BIO") == ["B-person", "I-person", "I-person", "B-place", "O"]
    assert tags_of(found, 5, "IOBES") == ["B-person", "I-person", "E-person", "S-place", "O"]


# --- columns and rows


def test_columns_are_guessed() -> None:
    assert chosen(["id", "tokens", "pos_tags", "ner_tags"]) == {"tokens": "tokens", "tags": "ner_tags"}
    assert chosen(["Words", "Tags"]) == {"tokens": "Words", "tags": "Tags"}
    assert chosen(["text", "entities"]) == {"text": "text", "spans": "entities"}
    assert chosen(["text", "tokens", "spans"]) == {"text": "text", "spans": "spans"}, "tokens have no tags"
    assert chosen(["t", "n"], tokens="t", tags="n") == {"tokens": "t", "tags": "n"}
    assert chosen(["tokens", "tags", "text", "s"], spans="s") == {"text": "text", "spans": "s"}
    assert chosen(["text", "tags"], labelled=False) == {"text": "text"}
    assert chosen(["tokens", "tags", "text"], labelled=False) == {"tokens": "tokens"}


def test_a_choice_is_needed() -> None:
    with pytest.raises(InvalidData, match=r"the columns are 'tokens', 'text'; expected tokens and tags"):
        chosen(["tokens", "text"])
    with pytest.raises(InvalidData, match="--tokens-column and --tags-column go without --text-column and --spans-"):
        chosen(["a", "b"], tokens="a", spans="b")
    with pytest.raises(InvalidData, match=r"no column 'tag', which --tags-column names \(did you mean 'tags'\?\)"):
        chosen(["tokens", "tags"], tags="tag")
    with pytest.raises(InvalidData, match="tokens and tags are both column 'a'"):
        chosen(["a"], tokens="a", tags="a")
    with pytest.raises(InvalidData, match="--label-column cannot be used: the bundle's task is token classification"):
        chosen(["tokens", "tags"], label="tags")


def test_words_and_tags_by_name_and_index(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.jsonl",
        {"tokens": ["New", "York", "!"], "ner_tags": ["B-place", "I-place", "O"]},
        {"tokens": ["Ann"], "ner_tags": [1]},
    )
    examples, note = made().read(path)
    assert examples == (
        WordsExample(words=("New", "York", "!"), tags=(3, 4, 0)), WordsExample(words=("Ann",), tags=(1,)),
    )  # fmt: skip
    assert [example.where for example in examples] == [f"{path}:1", f"{path}:2"]
    assert note == (
        "columns: tokens from 'tokens', tags from 'ner_tags' "
        "(guessed; name them with --tokens-column and --tags-column)"
    )
    assert made().read(path, labelled=False)[0][1] == WordsExample(words=("Ann",))


def test_texts_and_spans(tmp_path: Path) -> None:
    spans = [{"start": 4, "end": 12, "label": "place"}, {"start": 0, "end": 3, "label": "person"}]
    path = save(tmp_path / "a.jsonl", {"text": "Ann New York", "spans": spans}, {"text": "nobody", "spans": []})
    assert made().read(path)[0] == (
        SpansExample(text="Ann New York", spans=(Span(0, 3, "person"), Span(4, 12, "place"))),
        SpansExample(text="nobody", spans=()),
    )
    assert made().read(path, labelled=False)[0][0] == SpansExample(text="Ann New York")


@pytest.mark.parametrize("suffix", [".conll", ".bio", ".iob", ".iob2", ".TXT"])
def test_conll_columns(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(
        "\ufeff-DOCSTART- -X- O O\n\nNew NNP B-NP B-place\nYork NNP I-NP I-place\r\n\t\n\n! . O O\n".encode()
    )
    examples, note = made().read(path)
    assert examples == (WordsExample(words=("New", "York"), tags=(3, 4)), WordsExample(words=("!",), tags=(0,)))
    assert [example.where for example in examples] == [f"{path}:3", f"{path}:7"]
    assert note == "columns: tokens from 'first column', tags from 'last column'"
    assert made().read(path, labelled=False)[0][0] == WordsExample(words=("New", "York"))


def test_conll_columns_by_tabs(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("New York\tB-place\n.\tO")
    assert made().read(path)[0] == (WordsExample(words=("New York", "."), tags=(3, 0)),)


def test_conll_words_alone_can_be_run_only(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Ann\nsings\n\nso\n")
    examples, _ = made().read(path, labelled=False)
    assert examples == (WordsExample(words=("Ann", "sings")), WordsExample(words=("so",)))
    assert message_of(path, made()) == [f"{path}: no line has a tag; expected the token first and its tag last"]


def test_every_fault_of_conll_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("Ann\tO\nsings\n\tO\nso\t\n\nall\tB-plaec\na\tb\tO\n")
    assert message_of(path, made()) == [
        f"{path}: 4 faults",
        f"  - {path}:2: 'sings' has no tag; expected the token first and its tag last",
        f"  - {path}:3: an empty token; expected the token first",
        f"  - {path}:4: 'so' has no tag; expected the token first and its tag last",
        f"  - {path}:7: 3 columns; the first line has 2",
    ]


def test_no_such_kind_of_file(tmp_path: Path) -> None:
    (message,) = message_of(tmp_path / "a.xml", made())
    assert message.endswith(
        "(suffix '.xml'); expected one of .jsonl, .json, .ndjson, .csv, .tsv, or CoNLL columns in one of .conll, .bio, "
        ".iob, .iob2, .txt"
    )
    assert "a.conll: no such file" in message_of(tmp_path / "a.conll", made())[0]


def test_every_fault_of_words_and_tags(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.jsonl",
        {"tokens": ["a", "b", "c"], "tags": ["O", "O"]},
        {"tokens": ["a", " "], "tags": ["B-persn", "S-person"]},
        {"tokens": ["a", 3], "tags": [7, None]},
        {"tokens": "a b", "tags": ["O"]},
        {"tokens": [], "tags": []},
        {"tokens": ["a"]},
    )
    lines = message_of(path, made())
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


def test_every_fault_of_spans(tmp_path: Path) -> None:
    def row(*spans: object) -> dict[str, object]:
        return {"text": "Ann in New York", "spans": list(spans)}

    def span(start: object, end: object, label: object = "place") -> dict[str, object]:
        return {"start": start, "end": end, "label": label}

    path = save(
        tmp_path / "a.jsonl",
        row(span(7, 16), span(5, 5), span(-1, 3)),
        row(span(6, 15), span(3, 4)),
        row(span(7, 15), span(0, 3, "person"), span(11, 15)),
        row(span(0, 3, "persn"), span(0, 3, None), span(0.0, 3), [0, 3, "person"]),
        {"text": "Ann", "spans": "none"},
    )
    lines = message_of(path, made())
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


# --- tokens


def labelled(task: Task, *examples: object, **settings: object) -> list[list[int]]:
    return [item.arrays["labels"].tolist() for item in task.encode(examples, **settings).examples]


def test_the_first_piece_of_a_word_carries_its_tag(pieces: Tokenizer, text: TextSpec) -> None:
    task = made(BIO, text, pieces)
    example = WordsExample(words=("@ann", "in", "New", "York", "."), tags=(1, 0, 3, 4, 0))
    encoded = task.encode([example, WordsExample(words=("Ann",))])
    assert pieces.encode("@ann in New York .").tokens == [
        "[CLS]", "@", "a", "##n", "##n", "i", "##n", "new", "york", ".", "[SEP]",
    ]  # fmt: skip
    first, other = encoded.examples
    assert first.arrays["labels"].tolist() == [-100, 1, -100, -100, -100, 0, -100, 3, 4, 0, -100]
    assert (first.weight, first.length, first.truncated) == (5, 11, False), "a label weighs one: five words"
    assert (other.arrays["labels"] == -100).all()
    assert other.weight == 0, "without tags it does not count"
    assert {array.dtype for item in encoded.examples for array in item.arrays.values()} == {np.dtype(np.int64)}
    assert encoded.notes == ()


def test_spans_give_the_same_labels_as_words(pieces: Tokenizer, text: TextSpec) -> None:
    task = made(BIO, text, pieces)
    spans = SpansExample(text="Ann, in New York.", spans=(Span(0, 3, "person"), Span(8, 16, "place")))
    words = WordsExample(words=("Ann", ",", "in", "New", "York", "."), tags=(1, 0, 0, 3, 4, 0))
    assert labelled(task, spans) == labelled(task, words)
    assert labelled(made(IOBES, text, pieces), spans)[0] == [
        -100, IOBES.index("S-person"), -100, -100, 0, 0, -100, IOBES.index("B-place"), IOBES.index("E-place"), 0, -100,
    ]  # fmt: skip


@pytest.mark.parametrize("trimmed", [True, False])
def test_byte_level_tokens(tokenizer: Tokenizer, text: TextSpec, trimmed: bool) -> None:
    # Words begin with their space here, letters outside ASCII are two tokens or more, and offsets may count the space.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trimmed)
    task = made(BIO, text, tokenizer)
    words = WordsExample(words=("né", "à", "Rom"), tags=(1, 0, 3))
    spans = SpansExample(text="né à Rom", spans=(Span(0, 2, "person"), Span(5, 8, "place")))
    tokens = tokenizer.encode(words.text).tokens
    (found,) = labelled(task, words)
    # A space of its own is a token before each word; the word's first token is behind it.
    assert [(tokens[place], label) for place, label in enumerate(found) if label != -100] == [
        ("n", 1), ("Ã", 0), ("R", 3),
    ]  # fmt: skip
    assert labelled(task, spans) == [found]


def test_tokenizers_that_leave_punctuation_on_a_word(text: TextSpec) -> None:
    vocabulary = {"<unk>": 0, "▁": 1, "▁Ann": 2, "▁York": 3, ".": 4, "▁in": 5, "s": 6}
    built = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    built = Tokenizer(models.Unigram([(piece, -float(n)) for piece, n in vocabulary.items()], unk_id=0))
    built.pre_tokenizer = pre_tokenizers.Metaspace()
    spans = SpansExample(text="Ann in York.", spans=(Span(0, 3, "person"), Span(7, 11, "place")))
    assert built.encode(spans.text).tokens == ["▁Ann", "▁in", "▁York", "."]
    assert labelled(made(BIO, text, built), spans) == [[1, 0, 3, 0]]


def test_spans_that_no_whole_words_are(pieces: Tokenizer, text: TextSpec) -> None:
    task = made(BIO, text, pieces)
    examples = [
        SpansExample(text="in New York", spans=(Span(4, 9, "place"),), where="a.jsonl:1"),
        SpansExample(text="in York", spans=(Span(3, 7, "place"),), where="a.jsonl:2"),
        SpansExample(text="in \u200b york", spans=(Span(3, 4, "place"),), where="a.jsonl:3"),
    ]
    with pytest.raises(InvalidData) as caught:
        task.encode(examples)
    assert str(caught.value).splitlines() == [
        "2 span(s) that no whole words are",
        "  - a.jsonl:1: span 4 to 9 ('ew Yo') cuts through a word; did you mean 3 to 11 ('New York')?",
        "  - a.jsonl:3: span 3 to 4 ('\\u200b') holds no token",
    ]


def test_spans_of_several_words_need_an_inside(pieces: Tokenizer, text: TextSpec) -> None:
    task = made(("O", "B-place"), text, pieces)
    with pytest.raises(InvalidData, match="several words need the labels 'I-place', which the bundle does not have"):
        task.encode([SpansExample(text="new york", spans=(Span(0, 8, "place"),))])


def test_tags_are_repaired_or_refused(pieces: Tokenizer, text: TextSpec) -> None:
    task = made(BIO, text, pieces)
    examples = [
        WordsExample(words=("a", "b", "c"), tags=(0, 2, 2), where="a.conll:1"),
        WordsExample(words=("a", "b"), tags=(4, 2), where="a.conll:5"),
        WordsExample(words=("a", "b"), tags=(1, 2), where="a.conll:8"),
    ]
    encoded = task.encode(examples)
    assert [item.arrays["labels"][1:-1].tolist() for item in encoded.examples] == [[0, 1, 2], [3, 1], [1, 2]]
    assert encoded.notes == (
        (
            "3 tags repaired: BIO does not allow them where they are (the first: a.conll:1: word 2 'b': 'I-person' "
            "after 'O'; expected 'B-person')"
        ),
    )
    with pytest.raises(InvalidData) as caught:
        task.encode(examples, strict=True)
    assert str(caught.value).splitlines() == [
        "3 tag(s) that BIO does not allow there",
        "  - a.conll:1: word 2 'b': 'I-person' after 'O'; expected 'B-person'",
        "  - a.conll:5: word 1 'a': 'I-place' after nothing; expected 'B-place'",
        "  - a.conll:5: word 2 'b': 'I-person' after 'I-place'; expected 'B-person'",
    ]


def test_iobes_tags_are_repaired(pieces: Tokenizer, text: TextSpec) -> None:
    tags = tuple(IOBES.index(tag) for tag in ("B-person", "I-person", "O", "B-place"))
    encoded = made(IOBES, text, pieces).encode([WordsExample(words=("a", "b", "c", "d"), tags=tags)])
    found = [IOBES[index] for index in encoded.examples[0].arrays["labels"][1:-1]]
    assert found == ["B-person", "E-person", "O", "S-place"]
    assert encoded.notes[0].startswith("2 tags repaired: IOBES does not allow them")


def test_long_texts_keep_the_tags_of_what_is_left(pieces: Tokenizer, text: TextSpec) -> None:
    task = made(BIO, text, pieces)
    example = WordsExample(words=("abc", "de", "fg"), tags=(1, 2, 3))
    (found,) = task.encode([example], max_length=6).examples
    assert found.arrays["labels"].tolist() == [-100, 1, -100, -100, 2, -100]
    assert (found.truncated, found.weight, found.length) == (True, 2, 6)
    assert found.arrays["input_ids"][-1] == 3, "the special token at the end is kept"
    # A span that the cut goes through is whole in the text.
    span = SpansExample(text="abc defg", spans=(Span(4, 8, "place"),))
    assert labelled(task, span, max_length=6) == [[-100, 0, -100, -100, 3, -100]]
    with pytest.raises(InvalidData, match=r"1 example\(s\) longer than 6 tokens.*\n  - example 1: 9 tokens"):
        task.encode([example], max_length=6, strict=True)


def test_words_without_a_token_are_told(pieces: Tokenizer, text: TextSpec) -> None:
    # The variation selector of an emoji, which BERT's normalizer drops.
    encoded = made(BIO, text, pieces).encode([WordsExample(words=("a", "\u200b", "b"), tags=(1, 0, 3))])
    assert encoded.examples[0].arrays["labels"].tolist() == [-100, 1, 3, -100]
    assert encoded.notes == ("1 word(s) left out, of which the tokenizer makes no token",)


def test_more_texts_than_are_encoded_at_once(pieces: Tokenizer, text: TextSpec) -> None:
    examples = [WordsExample(words=("a",) * (number % 7 + 1), tags=(0,) * (number % 7 + 1)) for number in range(1030)]
    encoded = made(BIO, text, pieces).encode(examples, max_length=6)
    assert encoded.lengths.tolist() == [min(6, number % 7 + 3) for number in range(1030)]
    assert [item.weight for item in encoded.examples] == [min(4, number % 7 + 1) for number in range(1030)]


def test_texts_without_a_token(tokenizer: Tokenizer, text: TextSpec) -> None:
    with pytest.raises(InvalidData, match=r"1 example.*\n  - example 2: no token"):
        made(BIO, text, tokenizer).encode([SpansExample(text="a"), SpansExample(text="")])


def test_mistakes_of_a_programmer(pieces: Tokenizer, text: TextSpec) -> None:
    with pytest.raises(TypeError, match="takes WordsExample and SpansExample only"):
        made(BIO, text, pieces).encode([ClassificationExample(text="a")])


# --- figures and answers


def test_figures_of_batches(pieces: Tokenizer, text: TextSpec) -> None:
    task = made(BIO, text, pieces)
    encoded = task.encode([WordsExample(words=("new", "york", "a"), tags=(3, 4, 0))])
    meter = task.meter(encoded)
    labels = encoded.examples[0].arrays["labels"][None]
    logits = np.zeros((1, *labels.shape[1:], 5), np.float32)
    # One is right; of the others, a place without its beginning counts leniently only. Tokens without a label never do.
    logits[0, 0, 1] = 1
    for place, tag in enumerate((3, 4, 0), start=1):
        logits[0, place, tag] = 1
    meter.add(np.array([0]), {"labels": labels}, {"logits": logits})
    broken = logits.copy()
    broken[0, 1] = [0, 0, 0, 0, 2]
    # Behind the example of this batch is a padding row of a static graph.
    both = np.concatenate([labels, np.full_like(labels, -100)])
    meter.add(np.array([0]), {"labels": both}, {"logits": np.concatenate([broken, broken])})
    figures = {figure.name: figure.value for figure in meter.figures(0.5)}
    assert next(iter(figures)) == "f1"
    assert figures == {
        "f1": 1, "precision": 1, "recall": 1,
        "strict_f1": 2 * 0.5 / 1.5, "strict_precision": 1, "strict_recall": 0.5, "token_accuracy": 5 / 6,
    }  # fmt: skip


def test_an_answer_for_people_and_programs() -> None:
    found = tuple(
        NamedEntity(label=label, text=words, start=start, end=start + len(words), score=0.5)
        for label, words, start in (("person", "Ann", 0), ("place", "New York", 7), ("place", "Rome", 20))
    )
    answer = Entities(entities=found, truncated=True)
    assert answer.lines(5) == [
        "person: Ann (0-3) 50.0 %", "place: New York (7-15) 50.0 %", "place: Rome (20-24) 50.0 %",
    ]  # fmt: skip
    assert answer.lines(2) == ["person: Ann (0-3) 50.0 %", "place: New York (7-15) 50.0 %; place: Rome (20-24) 50.0 %"]
    assert answer.lines(1) == ["; ".join(answer.lines(5))]
    assert Entities(entities=(), truncated=False).lines(1) == ["no entities"]
    record = answer.record()
    assert record["truncated"] is True
    assert record["entities"][1] == {"label": "place", "text": "New York", "start": 7, "end": 15, "score": 0.5}
