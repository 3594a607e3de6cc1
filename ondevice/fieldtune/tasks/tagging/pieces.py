"""Words and the tokens that they begin with, whatever the tokenizer's own words are."""

import bisect
import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from unicodedata import category

import numpy as np

from fieldtune.bundle import IGNORE_INDEX
from fieldtune.data import Encoded, IntArray, encode_cut

if TYPE_CHECKING:
    import tokenizers

_TEXTS_AT_ONCE = 1024
"""The tokenizer works on so many texts in parallel; more would only hold more memory."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Aligned:
    """A text's tokens, and the words that begin in them.

    Attributes:
        input_ids: int64, shape (n,), special tokens included, cut to the limit.
        length: tokens before the cut.
        words: start and end of each word in the text.
        pieces: the place of each word's first token; -1 where it has none, or lost it to the cut.
        mute: how many words have no token at all, as where the tokenizer drops their characters.
    """

    input_ids: IntArray
    length: int
    words: tuple[tuple[int, int], ...]
    pieces: tuple[int, ...]
    mute: int

    def encoded(self, tags: Sequence[int], limit: int) -> Encoded:
        """Return the text with the tag of each word on its first token and no label on all others.

        Args:
            tags: of the words; none where they are to be found out.
            limit: what the text was cut to.
        """
        labels = np.full(len(self.input_ids), IGNORE_INDEX, np.int64)
        for piece, tag in zip(self.pieces, tags, strict=True) if tags else ():
            if piece >= 0:
                labels[piece] = tag
        return Encoded(
            arrays={"input_ids": self.input_ids, "labels": labels},
            weight=int(np.count_nonzero(labels != IGNORE_INDEX)),
            length=len(self.input_ids),
            truncated=self.length > limit,
        )


def align(
    texts: Sequence[str], words: Sequence[Sequence[str] | None], tokenizer: "tokenizers.Tokenizer", limit: int
) -> Iterator[Aligned]:
    """Yield the tokens of each text, cut to a limit, and the words that begin in them.

    Args:
        texts: the texts.
        words: of each; None where they are to be told from the text. With a space between they are the text.
        tokenizer: the bundle's.
        limit: tokens that a text may have.
    """
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        some = texts[start : start + _TEXTS_AT_ONCE]
        whole = tokenizer.encode_batch(some)
        longer = [index for index, encoding in enumerate(whole) if len(encoding.ids) > limit]
        cut = encode_cut([some[index] for index in longer], tokenizer, limit)
        short = {index: ids for index, (ids, _) in zip(longer, cut, strict=True)}
        for index, (text, encoding) in enumerate(zip(some, whole, strict=True)):
            given = words[start + index]
            places, pieces = _first_pieces(text, encoding, None if given is None else _places(given))
            ids = short.get(index)
            # The cut keeps the special tokens at the end, and what was before them goes.
            special = encoding.special_tokens_mask
            ending = next((place for place, mask in enumerate(reversed(special)) if not mask), len(special))
            kept = len(special) if ids is None else len(ids) - ending
            yield Aligned(
                input_ids=np.array(encoding.ids, np.int64) if ids is None else ids,
                length=len(encoding.ids),
                words=tuple(places),
                pieces=tuple(piece if piece < kept else -1 for piece in pieces),
                mute=sum(piece < 0 for piece in pieces),
            )


def _places(words: Sequence[str]) -> list[tuple[int, int]]:
    """Return where words stand in the text that they are with a space between."""
    places: list[tuple[int, int]] = []
    start = 0
    for word in words:
        places.append((start, start + len(word)))
        start += len(word) + 1
    return places


def _first_pieces(
    text: str, encoding: "tokenizers.Encoding", given: list[tuple[int, int]] | None
) -> tuple[list[tuple[int, int]], list[int]]:
    """Return the words of a text, and the place of each one's first token, -1 where it has none.

    Where no words are given, one begins where the tokenizer's own does, at white space, and at a token that begins or
    follows punctuation: tokenizers differ in whether they part it from the word, and entities end before it.
    """
    words: list[tuple[int, int]] = [] if given is None else given
    starts = [start for start, _ in words]
    pieces = [-1] * len(words)
    last: int | None = None
    for place, ((start, end), special, own) in enumerate(
        zip(encoding.offsets, encoding.special_tokens_mask, encoding.word_ids, strict=True)
    ):
        # Byte-level tokenizers may count the space before a word to it.
        while start < end and text[start].isspace():
            start += 1  # noqa: PLW2901 (as the comment says)
        if special or start == end:
            continue
        if given is not None:
            word = bisect.bisect_right(starts, start) - 1
            if pieces[word] < 0 and start < words[word][1]:
                pieces[word] = place
            continue
        before = words[-1][1] if words else 0
        # Tokens of one character's bytes have its offsets each.
        parted = start >= before and (own != last or _parts(text, before, start))
        if not words or parted:
            words.append((start, end))
            pieces.append(place)
        else:
            words[-1] = (words[-1][0], max(before, end))
        last = own
    return words, pieces


def _parts(text: str, before: int, start: int) -> bool:
    """Whether white space is between two tokens, or punctuation or a symbol on either side."""
    gap = any(letter.isspace() for letter in text[before:start])
    return gap or any(category(letter)[0] in "PS" for letter in (text[before - 1], text[start]))
