import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from fieldtune.bundle.manifest import TaskSpec, TextSpec
from fieldtune.data.examples import ClassificationExample, EncodedSet, Example, PromptExample, TextExample
from fieldtune.data.tokenizing import encode_examples, load_tokenizer
from fieldtune.errors import CorruptFile, InvalidData


def test_loading_switches_padding_and_truncation_off(tmp_path: Path, tokenizer: Tokenizer) -> None:
    tokenizer.enable_padding(length=9)
    tokenizer.enable_truncation(3)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert len(loaded.encode("a").ids) == 1
    assert len(loaded.encode("abcdef").ids) == 6


def test_a_tokenizer_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match=r"tokenizer\.json: no such file"):
        load_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(CorruptFile, match=r"not a tokenizer that tokenizers \d"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_classification(bracketed: Tokenizer, text: TextSpec, sentiment: TaskSpec) -> None:
    examples = [ClassificationExample(text="ab", label=1), ClassificationExample(text="c")]
    encoded = encode_examples(examples, bracketed, text, sentiment)
    a, b, c = (bracketed.token_to_id(letter) for letter in "abc")
    assert [item.input_ids.tolist() for item in encoded.examples] == [[1, a, b, 2], [1, c, 2]]
    assert [item.labels.tolist() for item in encoded.examples] == [1, -100]
    assert {item.input_ids.dtype for item in encoded.examples} == {np.dtype(np.int64)}
    assert (encoded.truncated, encoded.dropped) == (0, 0)
    assert encoded.lengths.tolist() == [4, 3]


def test_long_texts_keep_their_special_tokens(bracketed: Tokenizer, text: TextSpec, sentiment: TaskSpec) -> None:
    examples = [ClassificationExample(text="x" * size, label=0) for size in (3, 4, 40)]
    encoded = encode_examples(examples, bracketed, text, sentiment, max_length=5)
    assert [len(item.input_ids) for item in encoded.examples] == [5, 5, 5]
    assert [item.input_ids[[0, -1]].tolist() for item in encoded.examples] == [[1, 2]] * 3
    assert encoded.truncated == 2
    assert len(bracketed.encode("x" * 40).ids) == 42, "the tokenizer is left as it was"


def test_more_texts_than_are_encoded_at_once(bracketed: Tokenizer, text: TextSpec, sentiment: TaskSpec) -> None:
    examples = [ClassificationExample(text="x" * (index % 7 + 1), label=index % 2) for index in range(2050)]
    encoded = encode_examples(examples, bracketed, text, sentiment)
    assert encoded.lengths.tolist() == [index % 7 + 3 for index in range(2050)]
    assert [int(item.labels) for item in encoded.examples] == [index % 2 for index in range(2050)]


def test_strict_refuses_long_examples(
    bracketed: Tokenizer, text: TextSpec, sentiment: TaskSpec, generation: TaskSpec
) -> None:
    examples = [ClassificationExample(text="x" * size, label=0, where=f"a.csv:{size}") for size in (1, 4, 19)]
    with pytest.raises(InvalidData) as caught:
        encode_examples(examples, bracketed, text, sentiment, max_length=5, strict=True)
    assert str(caught.value).splitlines() == [
        "2 example(s) longer than 5 tokens; shorten them",
        "  - a.csv:4: 6 tokens",
        "  - a.csv:19: 21 tokens",
    ]
    with pytest.raises(InvalidData, match="example 1: 8 tokens"):
        encode_examples([TextExample(text="x" * 6)], bracketed, text, generation, max_length=7, strict=True)
    assert encode_examples(examples, bracketed, text, sentiment, strict=True).truncated == 0


def test_texts_without_a_token(tokenizer: Tokenizer, text: TextSpec, sentiment: TaskSpec) -> None:
    with pytest.raises(InvalidData, match=r"1 example.*\n  - example 2: no token"):
        encode_examples([ClassificationExample(text="a"), ClassificationExample(text="")], tokenizer, text, sentiment)


@pytest.mark.parametrize("limit", [2, 201, -1])
def test_lengths_that_the_model_cannot_take(
    limit: int, bracketed: Tokenizer, text: TextSpec, sentiment: TaskSpec
) -> None:
    with pytest.raises(InvalidData, match=f"a maximum length of {limit} tokens; this model takes 3 to 200"):
        encode_examples([ClassificationExample(text="a")], bracketed, text, sentiment, max_length=limit)


def lengths(encoded: EncodedSet) -> list[int]:
    return [len(item.input_ids) for item in encoded.examples]


def test_generation_is_cut_from_the_right(tokenizer: Tokenizer, text: TextSpec, generation: TaskSpec) -> None:
    plain = dataclasses.replace(text, chat_template=None)
    examples = [PromptExample(prompt="p" * size, completion="cc") for size in (2, 5, 7, 8, 20)]
    encoded = encode_examples(examples, tokenizer, plain, generation, max_length=8)
    assert lengths(encoded) == [5, 8, 8]
    assert [int((item.labels != -100).sum()) for item in encoded.examples] == [3, 3, 1]
    assert (encoded.truncated, encoded.dropped) == (1, 2)


def test_nothing_left_to_learn_from(tokenizer: Tokenizer, text: TextSpec, generation: TaskSpec) -> None:
    example = PromptExample(prompt="p" * 20, completion="cc")
    with pytest.raises(InvalidData, match="every example has more than 8 tokens before the first that carries a label"):
        encode_examples([example], tokenizer, text, generation, max_length=8)
    assert encode_examples([], tokenizer, text, generation).examples == ()


def test_all_faulty_conversations_are_listed(tokenizer: Tokenizer, text: TextSpec, generation: TaskSpec) -> None:
    template = "{{ raise_exception('No shouting') if 'HEY' in messages[0].content else messages[0].content }}"
    shouting = dataclasses.replace(text, chat_template=template, stop_token_ids=())
    examples: list[Example] = [
        PromptExample(prompt="HEY", completion="b", where="a.jsonl:1"),
        PromptExample(prompt="hey", completion="b"),
        TextExample(text="x"),
        TextExample(text="xy"),
    ]
    with pytest.raises(InvalidData) as caught:
        encode_examples(examples, tokenizer, shouting, generation)
    assert str(caught.value).splitlines() == [
        "3 example(s) cannot be learned from",
        "  - a.jsonl:1: the chat template refuses these messages: No shouting",
        "  - example 2: no token of it is the model's to write",
        "  - example 3: no token of it is the model's to write",
    ]


def test_mistakes_of_a_programmer(
    tokenizer: Tokenizer, text: TextSpec, sentiment: TaskSpec, generation: TaskSpec
) -> None:
    with pytest.raises(TypeError, match="takes ClassificationExample only"):
        encode_examples([TextExample(text="a")], tokenizer, text, sentiment)
    with pytest.raises(TypeError, match="text generation takes"):
        encode_examples([ClassificationExample(text="a")], tokenizer, text, generation)
    with pytest.raises(ValueError, match="task 'translation'"):
        encode_examples([], tokenizer, text, TaskSpec(name="translation", labels=()))
