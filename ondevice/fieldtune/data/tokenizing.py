"""Examples into token ids of a bounded length; what is cut or dropped is counted, or refused."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fieldtune.bundle.manifest import IGNORE_INDEX, TaskSpec, TextSpec
from fieldtune.data.dialogue import encode_dialogue, has_label
from fieldtune.data.examples import (
    TEXT_CLASSIFICATION,
    TEXT_GENERATION,
    ClassificationExample,
    Encoded,
    EncodedSet,
    Example,
    ImageExample,
)
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


def encode_examples(
    examples: Sequence[Example],
    tokenizer: "tokenizers.Tokenizer",
    text: TextSpec,
    task: TaskSpec,
    *,
    max_length: int | None = None,
    strict: bool = False,
) -> EncodedSet:
    """Encode examples, each cut to ``max_length`` tokens.

    Classification keeps the special tokens at both ends of a cut text. Generation cuts from the right; an example that
    loses all its labels to the cut is dropped.

    Args:
        examples: of the task.
        tokenizer: the bundle's, as ``load_tokenizer`` returns it.
        text: the bundle's.
        task: the bundle's.
        max_length: tokens; the model's own limit if None.
        strict: refuse examples that are too long instead of cutting them.

    Raises:
        InvalidData: a length that the model cannot take; examples that are too long, if ``strict``; examples that have
            no token or no label, or that the chat template refuses. Every example is named, up to 20.
        ValueError: a task that is neither text classification nor text generation.
    """
    limit = _checked_limit(max_length, tokenizer, text)
    if task.name == TEXT_CLASSIFICATION:
        encoded = _classified(examples, tokenizer, limit)
    elif task.name == TEXT_GENERATION:
        encoded = _generated(examples, tokenizer, text)
    else:
        raise ValueError(f"task {task.name!r}; expected {TEXT_CLASSIFICATION} or {TEXT_GENERATION}")
    too_long = [
        f"{_where(examples, index)}: {length} tokens" for index, (_, length) in enumerate(encoded) if length > limit
    ]
    if strict and too_long:
        raise InvalidData(f"{len(too_long)} example(s) longer than {limit} tokens; shorten them{listed(too_long)}")
    if task.name == TEXT_CLASSIFICATION:
        return EncodedSet(examples=tuple(item for item, _ in encoded), truncated=len(too_long), dropped=0)
    return _cut(encoded, limit)


def _checked_limit(max_length: int | None, tokenizer: "tokenizers.Tokenizer", text: TextSpec) -> int:
    limit = text.max_length if max_length is None else max_length
    # The special tokens and one of the text; the tokenizer would ignore a smaller limit without a word.
    least = tokenizer.num_special_tokens_to_add(False) + 1
    if not least <= limit <= text.max_length:
        raise InvalidData(f"a maximum length of {limit} tokens; this model takes {least} to {text.max_length}")
    return limit


def _where(examples: Sequence[Example], index: int) -> str:
    return examples[index].where or f"example {index + 1}"


def _classified(
    examples: Sequence[Example], tokenizer: "tokenizers.Tokenizer", limit: int
) -> list[tuple[Encoded, int]]:
    """Return each example, cut, with its length before the cut."""
    encoded: list[tuple[Encoded, int]] = []
    for item, (ids, length) in zip(examples, _encode_cut(examples, tokenizer, limit), strict=True):
        assert isinstance(item, ClassificationExample)
        label = IGNORE_INDEX if item.label is None else item.label
        encoded.append((Encoded(input_ids=np.array(ids, np.int64), labels=np.array(label, np.int64)), length))
    empty = [
        f"{_where(examples, index)}: no token" for index, (item, _) in enumerate(encoded) if not item.input_ids.size
    ]
    if empty:
        raise InvalidData(f"{len(empty)} example(s) hold nothing that the tokenizer knows{listed(empty)}")
    return encoded


def _encode_cut(
    examples: Sequence[Example], tokenizer: "tokenizers.Tokenizer", limit: int
) -> Iterator[tuple[list[int], int]]:
    special = tokenizer.num_special_tokens_to_add(False)
    texts = [item.text for item in examples if isinstance(item, ClassificationExample)]
    if len(texts) < len(examples):
        raise TypeError("text classification takes ClassificationExample only")
    tokenizer.enable_truncation(limit)
    try:
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            for encoding in tokenizer.encode_batch(texts[start : start + _TEXTS_AT_ONCE]):
                rest = sum(len(piece.ids) - special for piece in encoding.overflowing)
                yield encoding.ids, len(encoding.ids) + rest
    finally:
        tokenizer.no_truncation()


def _generated(
    examples: Sequence[Example], tokenizer: "tokenizers.Tokenizer", text: TextSpec
) -> list[tuple[Encoded, int]]:
    """Return each example whole, with its length."""
    encoded: list[tuple[Encoded, int]] = []
    faults: list[str] = []
    for index, example in enumerate(examples):
        if isinstance(example, ClassificationExample | ImageExample):
            raise TypeError("text generation takes ChatExample, PromptExample and TextExample only")
        try:
            item = encode_dialogue(example, tokenizer, text)
        except InvalidData as error:
            faults.append(f"{_where(examples, index)}: {error}")
            continue
        if not has_label(item):
            faults.append(f"{_where(examples, index)}: no token of it is the model's to write")
        encoded.append((item, len(item.input_ids)))
    if faults:
        raise InvalidData(f"{len(faults)} example(s) cannot be learned from{listed(faults)}")
    return encoded


def _cut(encoded: Sequence[tuple[Encoded, int]], limit: int) -> EncodedSet:
    kept: list[Encoded] = []
    truncated = 0
    for item, length in encoded:
        short = Encoded(input_ids=item.input_ids[:limit], labels=item.labels[:limit])
        if has_label(short):
            kept.append(short)
            truncated += length > limit
    if encoded and not kept:
        raise InvalidData(
            f"every example has more than {limit} tokens before the first that carries a label: nothing is left to "
            "learn from; raise the maximum length or shorten the prompts"
        )
    return EncodedSet(examples=tuple(kept), truncated=truncated, dropped=len(encoded) - len(kept))
