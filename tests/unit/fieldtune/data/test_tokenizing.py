from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from fieldtune.bundle.manifest import TextSpec
from fieldtune.data.dialogue import TextExample
from fieldtune.data.tokenizing import checked_limit, encode_cut, load_tokenizer, place_of, refuse_longer
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


def test_long_texts_keep_their_special_tokens(bracketed: Tokenizer) -> None:
    found = list(encode_cut(["x" * size for size in (3, 4, 40)], bracketed, 5))
    assert [len(ids) for ids, _ in found] == [5, 5, 5]
    assert [ids[[0, -1]].tolist() for ids, _ in found] == [[1, 2]] * 3
    assert [length for _, length in found] == [5, 6, 42]
    assert {ids.dtype for ids, _ in found} == {np.dtype(np.int64)}
    assert len(bracketed.encode("x" * 40).ids) == 42, "the tokenizer is left as it was"


def test_more_texts_than_are_encoded_at_once(bracketed: Tokenizer) -> None:
    found = list(encode_cut(["x" * (index % 7 + 1) for index in range(2050)], bracketed, 200))
    assert [length for _, length in found] == [index % 7 + 3 for index in range(2050)]


def test_every_text_that_is_too_long_is_named() -> None:
    examples = [TextExample(text="x" * size, where=f"a.csv:{size}") for size in (1, 4)] + [TextExample(text="x" * 19)]
    with pytest.raises(InvalidData) as caught:
        refuse_longer(examples, [3, 6, 21], 5)
    assert str(caught.value).splitlines() == [
        "2 example(s) longer than 5 tokens; shorten them",
        "  - a.csv:4: 6 tokens",
        "  - example 3: 21 tokens",
    ]
    refuse_longer(examples, [3, 6, 21], 21)
    assert [place_of(examples, index) for index in range(3)] == ["a.csv:1", "a.csv:4", "example 3"]


@pytest.mark.parametrize("limit", [2, 201, -1])
def test_lengths_that_the_model_cannot_take(limit: int, bracketed: Tokenizer, text: TextSpec) -> None:
    with pytest.raises(InvalidData, match=f"a maximum length of {limit} tokens; this model takes 3 to 200"):
        checked_limit(limit, bracketed, text)


def test_without_a_length_the_model_s_own_is_the_limit(bracketed: Tokenizer, text: TextSpec) -> None:
    assert checked_limit(None, bracketed, text) == 200
    assert checked_limit(3, bracketed, text) == 3
