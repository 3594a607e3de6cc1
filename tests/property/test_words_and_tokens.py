"""What holds of words and the tokens that they begin with, in three kinds of tokenizers."""

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from fieldtune.bundle.manifest import TaskSpec, TextSpec
from fieldtune.tasks.interface import Task
from fieldtune.tasks.table import new_task
from fieldtune.tasks.tagging.texts import Span, SpansExample, WordsExample

LABELS = ("O", "B-x", "I-x")
LETTERS = "abcXé日.,'-@"
WORDS = st.lists(st.text(LETTERS, min_size=1, max_size=5), min_size=1, max_size=8)


def _wordpiece() -> Tokenizer:
    pieces = [*LETTERS.lower(), "e", "ab", *(f"##{letter}" for letter in LETTERS.lower()), "##e", "##bc"]
    names = {piece: number for number, piece in enumerate(dict.fromkeys(["[UNK]", "[CLS]", "[SEP]", *pieces]))}
    built = Tokenizer(models.WordPiece(names, unk_token="[UNK]"))
    built.normalizer = normalizers.BertNormalizer(lowercase=True)
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    built.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return built


def _bytes() -> Tokenizer:
    names = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    names |= {"Ġa": len(names), "ab": len(names) + 1}
    built = Tokenizer(models.BPE(names, [("Ġ", "a"), ("a", "b")]))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.post_processor = processors.ByteLevel(trim_offsets=False)
    return built


def _sentencepiece() -> Tokenizer:
    scored = [("<unk>", 0.0), *((piece, -2.0) for piece in (*LETTERS, "▁", "▁a", "▁X", "ab"))]
    built = Tokenizer(models.Unigram(scored, unk_id=0))
    built.pre_tokenizer = pre_tokenizers.Metaspace()
    return built


@functools.cache
def task_of(kind: str) -> Task:
    text = TextSpec(max_length=200, pad_token_id=0, stop_token_ids=(), special_tokens={}, chat_template=None)
    task = new_task(TaskSpec(name="token-classification", labels=LABELS), text=text)
    made = {"wordpiece": _wordpiece, "bytes": _bytes, "sentencepiece": _sentencepiece}
    task.__dict__["tokenizer"] = made[kind]()
    return task


@pytest.mark.parametrize("kind", ["wordpiece", "bytes", "sentencepiece"])
@given(WORDS)
def test_every_word_is_labelled_once_and_in_order(kind: str, words: list[str]) -> None:
    task = task_of(kind)
    tags = (1, *[2] * (len(words) - 1))
    (found,) = task.encode([WordsExample(words=tuple(words), tags=tags)]).examples
    labels = [label for label in found.arrays["labels"].tolist() if label != -100]
    assert labels == list(tags)
    assert found.weight == len(words)
    whole = task.tokenizer.encode(" ".join(words))
    assert found.arrays["input_ids"].tolist() == whole.ids, "the text gets the same tokens"
    # Each label is on a token that begins with its word's first character.
    starts = [sum(len(word) + 1 for word in words[:number]) for number in range(len(words))]
    places = [place for place, label in enumerate(found.arrays["labels"]) if label != -100]
    for start, place in zip(starts, places, strict=True):
        first, last = whole.offsets[place]
        assert first <= start < last


@pytest.mark.parametrize("kind", ["wordpiece", "bytes", "sentencepiece"])
@given(st.lists(st.sampled_from(["ab", "c", "Xa", "é", "日"]), min_size=1, max_size=8), st.data())
def test_spans_of_words_between_punctuation(kind: str, words: list[str], data: st.DataObject) -> None:
    """Where no token joins a word with its comma, a span of one word is never refused, whatever is behind it."""
    task = task_of(kind)
    ends = [data.draw(st.sampled_from([" ", ", ", ". "])) for _ in words]
    text = "".join(word + end for word, end in zip(words, ends, strict=True)).rstrip()
    chosen = data.draw(st.integers(0, len(words) - 1))
    start = sum(len(word) + len(end) for word, end in zip(words[:chosen], ends, strict=False))
    span = Span(start, start + len(words[chosen]), "x")
    (found,) = task.encode([SpansExample(text=text, spans=(span,))]).examples
    labels = found.arrays["labels"].tolist()
    assert labels.count(1) == 1
    assert task.tokenizer.encode(text).offsets[labels.index(1)][1] > start
    assert labels.count(2) == 0
