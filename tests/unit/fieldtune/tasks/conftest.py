"""The function that makes a task of labels or of none, as a bundle would have it."""

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from fieldtune.bundle.manifest import ImageSpec, TaskSpec, TextSpec
from fieldtune.tasks.interface import Task
from fieldtune.tasks.table import new_task


def _made(name: str, *labels: str) -> Callable[..., Task]:
    def make(text: TextSpec | None = None, tokenizer: Tokenizer | None = None, image: ImageSpec | None = None) -> Task:
        task: Any = new_task(TaskSpec(name=name, labels=labels), text=text, image=image)
        if tokenizer is not None:
            task.tokenizer = tokenizer
        return task

    return make


@pytest.fixture
def sentiment() -> Callable[..., Task]:
    return _made("text-classification", "negative", "positive")


@pytest.fixture
def generation() -> Callable[..., Task]:
    return _made("text-generation")


@pytest.fixture
def brightness() -> Callable[..., Task]:
    return _made("image-classification", "dark", "light")


@pytest.fixture
def answering() -> Callable[..., Task]:
    return _made("question-answering")


@pytest.fixture
def tagger() -> Callable[..., Task]:
    def make(
        labels: tuple[str, ...] = ("O", "B-person", "I-person", "B-place", "I-place"),
        text: TextSpec | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> Task:
        return _made("token-classification", *labels)(text, tokenizer)

    return make


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


@pytest.fixture
def words() -> Tokenizer:
    """A token a word or mark, [CLS] question [SEP] context [SEP], types 0 and 1."""
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    for word in (*"abcdefghijklmnopqrstuvwxyz", "?", "."):
        vocabulary[word] = len(vocabulary)
    built = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    built.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return built
