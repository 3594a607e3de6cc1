"""Examples of text generation into token ids, with labels on what the model has to write itself."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fieldtune.bundle.manifest import IGNORE_INDEX, TextSpec
from fieldtune.data.chat import render
from fieldtune.data.examples import (
    ChatExample,
    Encoded,
    GenerationExample,
    IntArray,
    Message,
    PromptExample,
    TextExample,
)
from fieldtune.errors import InvalidData

if TYPE_CHECKING:
    import tokenizers


def encode_dialogue(example: GenerationExample, tokenizer: "tokenizers.Tokenizer", text: TextSpec) -> Encoded:
    """Encode one example at its full length.

    Where the model has a chat template, prompts and completions are turns of the user and the assistant. Labels lie on
    assistant turns, up to and including the stop token where generation ends; what a template writes behind it (a line
    break, say) is never generated, so it carries none. Without a template a completion follows its prompt directly and
    a stop token follows the completion. A whole text carries labels throughout and also ends with a stop token.

    Raises:
        InvalidData: messages and no chat template, or a template that refuses them or changes earlier turns.
    """
    if isinstance(example, TextExample):
        ids = np.concatenate([_opening(example.text, tokenizer, text), _stop(tokenizer, text)])
        return Encoded(input_ids=ids, labels=ids.copy())
    if text.chat_template is not None:
        return _encode_turns(_turns(example), text.chat_template, tokenizer, text)
    if isinstance(example, ChatExample):
        raise InvalidData("messages need a chat template, and the model has none; give a prompt and a completion")
    prompt = _opening(example.prompt, tokenizer, text)
    answer = np.concatenate([_ids(example.completion, tokenizer), _stop(tokenizer, text)])
    labels = np.concatenate([np.full_like(prompt, IGNORE_INDEX), answer])
    return Encoded(input_ids=np.concatenate([prompt, answer]), labels=labels)


def encode_prompt(prompt: str | Sequence[Message], tokenizer: "tokenizers.Tokenizer", text: TextSpec) -> IntArray:
    """Encode what generation starts from; the same tokens precede the labels in training.

    Args:
        prompt: a conversation; or a string, which is the user's turn where the model has a chat template.
        tokenizer: the bundle's.
        text: the bundle's.

    Returns:
        int64, shape (n,).

    Raises:
        InvalidData: messages and no chat template, or a template that refuses them.
    """
    if text.chat_template is None:
        if not isinstance(prompt, str):
            raise InvalidData("messages need a chat template, and the model has none; give a prompt")
        return _opening(prompt, tokenizer, text)
    turns = (Message(role="user", content=prompt),) if isinstance(prompt, str) else prompt
    return _ids(render(text.chat_template, turns, text.special_tokens, True), tokenizer)


def has_label(example: Encoded) -> bool:
    """Say whether any token of an encoded text carries loss; the first has nothing before it to be predicted from."""
    return bool((example.labels[1:] != IGNORE_INDEX).any())


def _turns(example: ChatExample | PromptExample) -> tuple[Message, ...]:
    if isinstance(example, ChatExample):
        return example.messages
    prompt, completion = example.prompt, example.completion
    return (Message(role="user", content=prompt), Message(role="assistant", content=completion))


def _encode_turns(
    turns: Sequence[Message], template: str, tokenizer: "tokenizers.Tokenizer", text: TextSpec
) -> Encoded:
    whole = render(template, turns, text.special_tokens, False)
    ids = _ids(whole, tokenizer)
    labels = np.full_like(ids, IGNORE_INDEX)
    for number, turn in enumerate(turns):
        if turn.role != "assistant":
            continue
        before = render(template, turns[:number], text.special_tokens, True)
        after = render(template, turns[: number + 1], text.special_tokens, False)
        if not after.startswith(before) or not whole.startswith(after):
            raise InvalidData(
                f"message {number + 1}: the chat template writes earlier turns differently once later ones follow, so "
                "the assistant's tokens cannot be told apart; give this example one assistant message, the last"
            )
        # Shared tokens instead of the tokenizer's offsets: some tokenizers trim white space from those, and a token
        # that joins the prompt's last characters to the answer's first is the model's to write.
        start = _shared(ids, _ids(before, tokenizer))
        end = len(ids) if after == whole else _shared(ids, _ids(after, tokenizer))
        stops = np.flatnonzero(np.isin(ids[start:end], text.stop_token_ids))
        end = start + int(stops[-1]) + 1 if stops.size else end
        labels[start:end] = ids[start:end]
    return Encoded(input_ids=ids, labels=labels)


def _shared(ids: IntArray, others: IntArray) -> int:
    """Count the tokens at the beginning that are equal."""
    least = min(len(ids), len(others))
    different = np.flatnonzero(ids[:least] != others[:least])
    return int(different[0]) if different.size else least


def _ids(text: str, tokenizer: "tokenizers.Tokenizer") -> IntArray:
    return np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int64)


def _opening(prompt: str, tokenizer: "tokenizers.Tokenizer", text: TextSpec) -> IntArray:
    """Encode text with the special tokens that precede it; a stop token that the tokenizer appends is taken off."""
    encoding = tokenizer.encode(prompt)
    ids = np.array(encoding.ids, np.int64)
    added = len(ids) > 0 and encoding.special_tokens_mask[-1] == 1 and ids[-1] in text.stop_token_ids
    return ids[:-1] if added else ids


def _stop(tokenizer: "tokenizers.Tokenizer", text: TextSpec) -> IntArray:
    """Return the token that ends a text, int64, shape (1,), or (0,) if there is none; eos_token if it is one."""
    named = tokenizer.token_to_id(text.special_tokens.get("eos_token", ""))
    if named is not None and named in text.stop_token_ids:
        return np.array([named], np.int64)
    return np.array(text.stop_token_ids[:1], np.int64)
