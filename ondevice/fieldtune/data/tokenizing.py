"""Texts into token ids of a bounded length; what is cut is counted, or refused."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fieldtune.bundle import TextSpec
from fieldtune.data.examples import Example, IntArray
from fieldtune.errors import CorruptFile, InvalidData, listed

if TYPE_CHECKING:
    import tokenizers

_TEXTS_AT_ONCE = 1024
"""The tokenizer works on so many texts in parallel; more would only hold more memory."""


def load_tokenizer(path: str | Path) -> "tokenizers.Tokenizer":
    """Load tokenizer.json, its padding and truncation switched off: batches pad, and cuts are counted.

    Raises:
        CorruptFile: missing, or not a tokenizer that the installed tokenizers package reads.
    """
    import tokenizers

    path = Path(path)
    if not path.is_file():
        raise CorruptFile(f"{path}: no such file; build the bundle again or copy it again")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        # The package raises Exception itself, whatever the fault.
        raise CorruptFile(
            f"{path}: not a tokenizer that tokenizers {tokenizers.__version__} reads ({error}); "
            "copy the bundle again or update tokenizers"
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def checked_limit(max_length: int | None, tokenizer: "tokenizers.Tokenizer", text: TextSpec) -> int:
    """Return how many tokens a text may have: as asked for, else what the model takes.

    Raises:
        InvalidData: a length that the model cannot take.
    """
    limit = text.max_length if max_length is None else max_length
    # The special tokens and one of the text; the tokenizer would ignore a smaller limit without a word.
    least = tokenizer.num_special_tokens_to_add(False) + 1
    if not least <= limit <= text.max_length:
        raise InvalidData(f"a maximum length of {limit} tokens; this model takes {least} to {text.max_length}")
    return limit


def place_of(examples: Sequence[Example], index: int) -> str:
    """Return what messages call an example: its line in a file, else its number."""
    return examples[index].where or f"example {index + 1}"


def refuse_empty(examples: Sequence[Example], ids: Sequence[IntArray]) -> None:
    """Refuse texts of which the tokenizer makes nothing, not even special tokens.

    Raises:
        InvalidData: every one is named, up to 20.
    """
    empty = [f"{place_of(examples, index)}: no token" for index, tokens in enumerate(ids) if not tokens.size]
    if empty:
        raise InvalidData(f"{len(empty)} example(s) hold nothing that the tokenizer knows{listed(empty)}")


def refuse_longer(examples: Sequence[Example], lengths: Sequence[int], limit: int) -> None:
    """Refuse texts that are too long.

    Raises:
        InvalidData: every one is named, up to 20.
    """
    longer = [f"{place_of(examples, index)}: {length} tokens" for index, length in enumerate(lengths) if length > limit]
    if longer:
        raise InvalidData(f"{len(longer)} example(s) longer than {limit} tokens; shorten them{listed(longer)}")


def encode_cut(texts: Sequence[str], tokenizer: "tokenizers.Tokenizer", limit: int) -> Iterator[tuple[IntArray, int]]:
    """Yield the token ids of each text, int64, cut to a limit, special tokens kept, and its length before the cut."""
    special = tokenizer.num_special_tokens_to_add(False)
    tokenizer.enable_truncation(limit)
    try:
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            for encoding in tokenizer.encode_batch(texts[start : start + _TEXTS_AT_ONCE]):
                rest = sum(len(piece.ids) - special for piece in encoding.overflowing)
                yield np.array(encoding.ids, np.int64), len(encoding.ids) + rest
    finally:
        tokenizer.no_truncation()
