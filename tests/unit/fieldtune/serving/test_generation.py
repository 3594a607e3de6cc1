import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from fieldtune.serving import GenerationSettings
from fieldtune.serving.generation import stream_text


def _byte_level():
    """One token a byte, and one special token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    built = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens([tokenizers.AddedToken("<end>", special=True)])
    return built


def _metaspace():
    """Words whose leading space the decoder strips at the beginning of a text, and bytes for all else."""
    words = ["▁a", "▁b", "c", *(f"<0x{byte:02X}>" for byte in range(256))]
    built = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, [], byte_fallback=True))
    built.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return built


BYTES, SPACED = _byte_level(), _metaspace()


def _bytes(text):
    return BYTES.encode(text).ids


def test_a_character_of_several_tokens_comes_out_whole():
    ids = _bytes("aé€😀z")
    assert len(ids) == 1 + 2 + 3 + 4 + 1
    assert list(stream_text(ids, BYTES)) == ["a", "é", "€", "😀", "z"]


def test_each_piece_comes_with_the_token_that_completes_it():
    arrived = []

    def tokens():
        for token in _bytes("é!"):
            arrived.append(token)
            yield token

    pieces = stream_text(tokens(), BYTES)
    assert next(pieces) == "é"
    assert len(arrived) == 2
    assert next(pieces) == "!"


def test_special_tokens_are_left_out():
    end = BYTES.token_to_id("<end>")
    assert list(stream_text([end, *_bytes("a"), end, *_bytes("b"), end], BYTES)) == ["a", "b"]


def test_half_a_character_at_the_end_is_not_lost():
    assert list(stream_text(_bytes("a😀")[:-1], BYTES)) == ["a", "\ufffd"]


def test_bytes_that_are_no_character_do_not_hold_up_the_rest():
    broken = _bytes("😀")[1:2]
    pieces = list(stream_text([*broken, *_bytes("ab")], BYTES))
    assert pieces == ["\ufffda", "b"]


def test_only_the_first_word_loses_its_leading_space():
    assert list(stream_text([0, 1, 2, 0], SPACED)) == ["a", " b", "c", " a"]


@given(st.text(max_size=12))
def test_the_pieces_of_any_text_make_up_the_text(text):
    pieces = list(stream_text(_bytes(text), BYTES))
    assert "".join(pieces) == text


@given(st.lists(st.sampled_from([[0], [1], [2], *([3 + byte for byte in letter.encode()] for letter in "é€😀")])))
def test_the_pieces_of_any_tokens_make_up_their_text(groups):
    # Whole characters only: of a broken one this decoder takes back what came just before it.
    ids = [token for group in groups for token in group]
    assert "".join(stream_text(ids, SPACED)) == SPACED.decode(ids)


def test_no_token_is_no_piece():
    assert list(stream_text([], BYTES)) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; expected a number of at least 1"),
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": 1, "top_k": 0}, "top_k is 0"),
        ({"temperature": 1, "top_p": 0}, "top_p is 0; expected above 0 and at most 1"),
        ({"temperature": 1, "top_p": 1.5}, "top_p is 1.5"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"top_k": 3}, "at temperature 0 nothing is"),
        ({"top_p": 0.9}, "at temperature 0 nothing is"),
    ],
)
def test_settings_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        GenerationSettings(**values)
