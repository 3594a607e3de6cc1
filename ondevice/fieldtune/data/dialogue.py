"""Conversations, prompts and whole texts: read from rows, and encoded with labels on what the model has to write."""

import dataclasses
import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fieldtune.bundle import IGNORE_INDEX, TextSpec
from fieldtune.data.chat import Message, render
from fieldtune.data.columns import MESSAGES, Available, Choice, Columns, refuse_shared
from fieldtune.data.examples import Encoded, IntArray
from fieldtune.data.rows import Report, Row, checked_text, has_column, kind_of, text_of
from fieldtune.errors import InvalidData, quoted

if TYPE_CHECKING:
    import tokenizers

COMPLETION_NAMES = ("completion", "response", "answer", "output")
PAIR_NAMES = {
    "prompt": COMPLETION_NAMES,
    "question": ("answer", *COMPLETION_NAMES),
    "instruction": ("output", *COMPLETION_NAMES),
}
"""Columns that hold a prompt, and for each the columns that may hold its completion; the first that is there counts."""
ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ChatExample:
    """A conversation; its assistant turns carry the loss."""

    messages: tuple[Message, ...]
    where: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PromptExample:
    """A prompt and what should follow it, which carries the loss; an empty completion is still to be generated."""

    prompt: str
    completion: str = ""
    where: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TextExample:
    """A whole text, every token of which carries loss."""

    text: str
    where: str = dataclasses.field(default="", compare=False)


GenerationExample: TypeAlias = ChatExample | PromptExample | TextExample


def choose_dialogue(rows: Sequence[Row], named: Columns, *, labelled: bool) -> Choice:
    """Choose the columns of conversations (``messages``), of prompts and completions, or of whole texts.

    Raises:
        InvalidData: a named column is missing, or no guess can be made.
    """
    columns = Available(rows)
    paired = "prompt" in named or "completion" in named
    if "text" in named and paired:
        raise InvalidData("--text-column goes without --prompt-column and --completion-column: name one or the others")
    if "text" in named:
        return Choice.of({"text": columns.named("text", named)}, named)
    if not paired and (messages := columns.find((MESSAGES,))):
        return Choice.of({MESSAGES: messages}, named)
    pair = _pair(columns, named, labelled=labelled)
    if pair is not None:
        return pair
    if not paired and (text := columns.find(("text",))):
        return Choice.of({"text": text}, named)
    raise InvalidData(
        f"cannot tell which columns hold the conversation; the columns are {quoted(columns.names)}; "
        "expected messages, prompt and completion (or response, answer, output), question and answer, instruction and "
        "output, or text; name them with --prompt-column and --completion-column, or --text-column"
    )


def _pair(columns: Available, named: Columns, *, labelled: bool) -> Choice | None:
    prompts = {named["prompt"]: COMPLETION_NAMES} if "prompt" in named else PAIR_NAMES
    for wanted, completions in prompts.items():
        taken = named.get("completion")
        prompt = columns.named("prompt", named) if "prompt" in named else columns.find((wanted,), taken)
        if prompt is None:
            continue
        completion = columns.named("completion", named) if taken else columns.find(completions, prompt)
        if completion is None and labelled:
            continue
        pair = {"prompt": prompt} if completion is None else {"prompt": prompt, "completion": completion}
        refuse_shared(pair)  # also where the completion is not read
        return Choice.of(pair if labelled else {"prompt": prompt}, named)
    return None


def read_dialogue(row: Row, choice: Choice, where: str, fault: Report, *, labelled: bool) -> GenerationExample | None:
    """Return the conversation, prompt or whole text of a row; None after a fault, of which ``fault`` is told."""
    if MESSAGES in choice.columns:
        messages = _messages(row, choice.columns[MESSAGES], fault, labelled=labelled)
        return None if messages is None else ChatExample(messages=messages, where=where)
    if "text" in choice.columns:
        text = text_of(row, choice.columns["text"], fault)
        return None if text is None else TextExample(text=text, where=where)
    prompt = text_of(row, choice.columns["prompt"], fault)
    completion = text_of(row, choice.columns["completion"], fault) if "completion" in choice.columns else ""
    if prompt is None or completion is None:
        return None
    return PromptExample(prompt=prompt, completion=completion, where=where)


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
        return _encoded(ids, ids.copy())
    if text.chat_template is not None:
        return _encode_turns(_turns(example), text.chat_template, tokenizer, text)
    if isinstance(example, ChatExample):
        raise InvalidData("messages need a chat template, and the model has none; give a prompt and a completion")
    prompt = _opening(example.prompt, tokenizer, text)
    answer = np.concatenate([_ids(example.completion, tokenizer), _stop(tokenizer, text)])
    labels = np.concatenate([np.full_like(prompt, IGNORE_INDEX), answer])
    return _encoded(np.concatenate([prompt, answer]), labels)


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


def cut(example: Encoded, limit: int) -> Encoded:
    """Return the beginning of an encoded text, which may have lost all its labels."""
    short = _encoded(example.arrays["input_ids"][:limit], example.arrays["labels"][:limit])
    return dataclasses.replace(short, truncated=example.length > limit)


def _encoded(input_ids: IntArray, labels: IntArray) -> Encoded:
    """Return an encoded text: each of its tokens that carries loss counts, but not the first: nothing predicts it."""
    counted = int(np.count_nonzero(labels[1:] != IGNORE_INDEX))
    return Encoded(arrays={"input_ids": input_ids, "labels": labels}, weight=counted, length=len(input_ids))


def _messages(row: Row, column: str, fault: Report, *, labelled: bool) -> tuple[Message, ...] | None:
    if not has_column(row, column, fault):
        return None
    cell = row.cells[column]
    if not isinstance(cell, list) or not cell:
        fault(f"{column!r} is {kind_of(cell) if cell != [] else 'an empty list'}; expected a list of messages")
        return None
    messages = [_message(item, f"message {number}", fault) for number, item in enumerate(cell, start=1)]
    whole = tuple(message for message in messages if message is not None)
    if len(whole) < len(messages):
        return None
    if labelled and not any(message.role == "assistant" for message in whole):
        fault("no assistant message, so nothing to learn from")
        return None
    return whole


def _message(item: object, what: str, fault: Report) -> Message | None:
    if not isinstance(item, dict):
        fault(f"{what} is {kind_of(item)}; expected an object with role and content")
        return None
    role, more = item.get("role"), sorted(key for key in item if key not in ("role", "content") and item[key])
    if role not in ROLES:
        near = difflib.get_close_matches(role, ROLES, n=1) if isinstance(role, str) else []
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        fault(f"{what}: role is {kind_of(role)}{hint}; expected one of {', '.join(ROLES)}")
        return None
    if more:
        fault(f"{what} has {', '.join(map(repr, more))}; only role and content are supported")
        return None
    content = checked_text(item.get("content"), f"{what}: content", fault)
    return None if content is None else Message(role=role, content=content)


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
    return _encoded(ids, labels)


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
