import numpy as np
import pytest

from fieldtune.data.rows import Row
from fieldtune.errors import InvalidBundle, InvalidData
from fieldtune.tasks.tagging.texts import Span, SpansExample, WordsExample
from fieldtune.tasks.text_classification import ClassificationExample

BIO = ("O", "B-person", "I-person", "B-place", "I-place")
IOBES = ("O", *(f"{prefix}-{kind}" for kind in ("person", "place") for prefix in "BIES"))


def test_labels_of_no_scheme_are_no_bundle_of_the_task(tagger):
    with pytest.raises(InvalidBundle, match="token-classification: labels of no scheme: 'NOUN'"):
        _ = tagger(("NOUN", "O")).scheme


def test_columns_of_other_tasks_are_refused(tagger):
    with pytest.raises(InvalidData, match="--label-column cannot be used: the bundle's task is token classification"):
        tagger().choose([Row(1, {"tokens": "x", "tags": "x"})], {"label": "tags"}, labelled=True)


def labelled(task, *examples, **settings):
    return [item.arrays["labels"].tolist() for item in task.encode(examples, **settings).examples]


def test_the_first_piece_of_a_word_carries_its_tag(pieces, text, tagger):
    task = tagger(BIO, text, pieces)
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


def test_spans_give_the_same_labels_as_words(pieces, text, tagger):
    task = tagger(BIO, text, pieces)
    spans = SpansExample(text="Ann, in New York.", spans=(Span(0, 3, "person"), Span(8, 16, "place")))
    words = WordsExample(words=("Ann", ",", "in", "New", "York", "."), tags=(1, 0, 0, 3, 4, 0))
    assert labelled(task, spans) == labelled(task, words)
    assert labelled(tagger(IOBES, text, pieces), spans)[0] == [
        -100, IOBES.index("S-person"), -100, -100, 0, 0, -100, IOBES.index("B-place"), IOBES.index("E-place"), 0, -100,
    ]  # fmt: skip


def test_spans_that_no_whole_words_are(pieces, text, tagger):
    task = tagger(BIO, text, pieces)
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


def test_tags_are_repaired_or_refused(pieces, text, tagger):
    task = tagger(BIO, text, pieces)
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


def test_long_texts_keep_the_tags_of_what_is_left(pieces, text, tagger):
    task = tagger(BIO, text, pieces)
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


def test_words_without_a_token_are_told(pieces, text, tagger):
    # The variation selector of an emoji, which BERT's normalizer drops.
    encoded = tagger(BIO, text, pieces).encode([WordsExample(words=("a", "\u200b", "b"), tags=(1, 0, 3))])
    assert encoded.examples[0].arrays["labels"].tolist() == [-100, 1, 3, -100]
    assert encoded.notes == ("1 word(s) left out, of which the tokenizer makes no token",)


def test_more_texts_than_are_encoded_at_once(pieces, text, tagger):
    examples = [WordsExample(words=("a",) * (number % 7 + 1), tags=(0,) * (number % 7 + 1)) for number in range(1030)]
    encoded = tagger(BIO, text, pieces).encode(examples, max_length=6)
    assert encoded.lengths.tolist() == [min(6, number % 7 + 3) for number in range(1030)]
    assert [item.weight for item in encoded.examples] == [min(4, number % 7 + 1) for number in range(1030)]


def test_texts_without_a_token(tokenizer, text, tagger):
    with pytest.raises(InvalidData, match=r"1 example.*\n  - example 2: no token"):
        tagger(BIO, text, tokenizer).encode([SpansExample(text="a"), SpansExample(text="")])


def test_mistakes_of_a_programmer(pieces, text, tagger):
    with pytest.raises(TypeError, match="takes WordsExample and SpansExample only"):
        tagger(BIO, text, pieces).encode([ClassificationExample(text="a")])


def test_figures_of_batches(pieces, text, tagger):
    task = tagger(BIO, text, pieces)
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
