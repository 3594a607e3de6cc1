import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from fieldtune.tasks.tagging.pieces import align


def aligned(tokenizer, text, words=None, limit=200):
    if words is not None:
        assert text == " ".join(words)
    (found,) = align([text], [words], tokenizer, limit)
    return found


def first_tokens(tokenizer, text, words=None):
    """Each word, and the token that it begins with."""
    found, tokens = aligned(tokenizer, text, words), tokenizer.encode(text).tokens
    return [(text[start:end], tokens[piece]) for (start, end), piece in zip(found.words, found.pieces, strict=True)]


def test_given_words_begin_where_they_stand(pieces):
    found = first_tokens(pieces, "@ann in New York .", ("@ann", "in", "New", "York", "."))
    assert found == [("@ann", "@"), ("in", "i"), ("New", "new"), ("York", "york"), (".", ".")]


def test_words_of_a_text_are_parted_by_white_space_and_punctuation(pieces):
    found = first_tokens(pieces, "Ann, in New York.")
    assert found == [("Ann", "a"), (",", ","), ("in", "i"), ("New", "new"), ("York", "york"), (".", ".")]


@pytest.mark.parametrize("trimmed", [True, False])
def test_byte_level_tokens(tokenizer, trimmed):
    # Words begin with their space here, letters outside ASCII are two tokens or more, and offsets may count the space.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trimmed)
    expected = [("né", "n"), ("à", "Ã"), ("Rom", "R")]
    assert first_tokens(tokenizer, "né à Rom", ("né", "à", "Rom")) == expected
    assert first_tokens(tokenizer, "né à Rom") == expected, "a space of its own is no word's first token"


def test_tokenizers_that_leave_punctuation_on_a_word():
    scored = [(piece, -float(rank)) for rank, piece in enumerate(("<unk>", "▁", "▁Ann", "▁York", ".", "▁in", "s"))]
    built = Tokenizer(models.Unigram(scored, unk_id=0))
    built.pre_tokenizer = pre_tokenizers.Metaspace()
    assert first_tokens(built, "Ann in York.") == [("Ann", "▁Ann"), ("in", "▁in"), ("York", "▁York"), (".", ".")]


def test_a_cut_keeps_the_special_token_at_the_end_and_forgets_the_pieces_behind_it(pieces):
    whole, short = aligned(pieces, "abc de fg"), aligned(pieces, "abc de fg", limit=6)
    assert (whole.length, len(whole.input_ids), whole.pieces) == (9, 9, (1, 4, 6))
    assert (short.length, len(short.input_ids), short.pieces) == (9, 6, (1, 4, -1))
    assert short.words == whole.words, "words are those of the whole text"
    assert short.input_ids.tolist() == [*whole.input_ids[:5], 3]


def test_words_that_the_tokenizer_drops_are_counted(pieces):
    found = aligned(pieces, "a \u200b b", ("a", "\u200b", "b"))
    assert (found.pieces, found.mute) == ((1, -1, 2), 1)


def test_tags_lie_on_first_tokens(pieces):
    found = aligned(pieces, "ann in york", limit=6)
    encoded = found.encoded((1, 0, 2), 6)
    assert encoded.arrays["labels"].tolist() == [-100, 1, -100, -100, 0, -100]
    assert (encoded.weight, encoded.length, encoded.truncated) == (2, 6, True), "york is behind the cut"
    bare = found.encoded((), 6)
    assert (bare.weight, bare.arrays["labels"].tolist()) == (0, [-100] * 6)
    assert {array.dtype for array in bare.arrays.values()} == {np.dtype(np.int64)}
