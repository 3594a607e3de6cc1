"""Text generation: conversations, prompts with their completions, and whole texts."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from fieldtune.bundle import Batch
from fieldtune.data import (
    ChatExample,
    Choice,
    Columns,
    Encoded,
    EncodedSet,
    GenerationExample,
    IntArray,
    Message,
    PromptExample,
    Report,
    Row,
    TextExample,
    checked_limit,
    choose_dialogue,
    cut,
    encode_dialogue,
    place_of,
    read_dialogue,
    refuse_longer,
    refuse_parts,
)
from fieldtune.errors import InvalidData, listed
from fieldtune.serving import GenerationSettings, LoadedAdapter, Runner, chat
from fieldtune.tasks.interface import Figure, Item, Note, Outputs, Task


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GenerationOptions:
    """What ``fieldtune run`` takes for text generation."""

    system: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """Generation: the system message, ahead of each prompt."""

    raw: bool = False
    """Generation: continue the prompt as it stands, without the chat template."""

    settings: GenerationSettings = dataclasses.field(default_factory=GenerationSettings)


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt:
    """What to answer: a string or a conversation, and whether it is continued without a chat template."""

    content: str | tuple[Message, ...]
    raw: bool = False


class Written:
    """An answer, which is written while it is iterated over: once, in pieces of text."""

    truncated = False

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[str]:
        """Return the pieces that are still to come."""
        return self._pieces

    def __str__(self) -> str:
        """Return all that is still to come as one text."""
        return "".join(self._pieces)

    def record(self) -> Mapping[str, object]:
        """Return the whole answer."""
        return {"answer": str(self)}

    def lines(self, most: int) -> list[str]:
        """Return the whole answer."""
        return [str(self)]


class TokenMeter:
    """Counts the tokens that are the likeliest after what precedes them."""

    def __init__(self, encoded: EncodedSet) -> None:
        self._labels = sum(example.weight for example in encoded.examples)
        self._right = 0

    def add(self, indices: IntArray, batch: Batch, outputs: Outputs) -> None:
        """Add a batch's count of right tokens."""
        self._right += int(outputs["correct"])

    def figures(self, loss: float) -> tuple[Figure, ...]:
        """Return the part of the labelled tokens that are right, and the perplexity: e to the loss."""
        return (
            Figure(name="token_accuracy", value=self._right / self._labels, unit="%"),
            # Above e^700 a float ends; a mean loss of 700 nats a token is a broken model, not a perplexity.
            Figure(name="perplexity", value=math.exp(loss) if loss < 700 else math.inf, better="lower"),
        )


class TextGeneration(Task):
    """What a model has to write itself carries the loss: assistant turns, completions, whole texts."""

    name = "text-generation"
    columns = {  # noqa: RUF012 (nobody changes it)
        "text": "Holds the text.",
        "prompt": "Holds what the model is asked.",
        "completion": "Holds what the model should answer.",
    }
    item = "text"
    options = GenerationOptions
    takes = frozenset[str]()
    streams = True
    line_by_line = False

    def choose(self, rows: Sequence[Row], named: Columns, *, labelled: bool) -> Choice:
        """Choose the columns of conversations, of prompts and completions, or of whole texts."""
        refuse_parts(named, self.columns, self.name)
        return choose_dialogue(rows, named, labelled=labelled)

    def read_row(
        self, row: Row, choice: Choice, file: Path, fault: Report, *, labelled: bool
    ) -> GenerationExample | None:
        """Return a conversation, a prompt or a whole text."""
        return read_dialogue(row, choice, row.where(file), fault, labelled=labelled)

    def encode(self, examples: Sequence[Any], *, max_length: int | None = None, strict: bool = False) -> EncodedSet:
        """Encode texts, cut from the right; one that loses all its labels to the cut is dropped."""
        with self.lock:
            limit = checked_limit(max_length, self.tokenizer, self.text)
            whole = self._whole(examples)
        if strict:
            refuse_longer(examples, [example.length for example in whole], limit)
        kept = [short for example in whole if (short := cut(example, limit)).weight]
        if whole and not kept:
            raise InvalidData(
                f"every example has more than {limit} tokens before the first that carries a label: nothing is left to "
                "learn from; raise the maximum length or shorten the prompts"
            )
        return EncodedSet(examples=tuple(kept), dropped=len(whole) - len(kept))

    def meter(self, encoded: EncodedSet) -> TokenMeter:
        """Return what counts the right tokens."""
        return TokenMeter(encoded)

    def check_options(self, options: GenerationOptions) -> None:
        """Check that a system message has its template."""
        if options.raw and options.system is not None:
            raise ValueError("--system and --raw: a system message needs the chat template, which --raw leaves out")

    def given(self, texts: Sequence[str], options: GenerationOptions, note: Note) -> list[Item]:
        """Return prompts."""
        return [_from_text(text, options) for text in texts]

    def asked(self, example: GenerationExample, options: GenerationOptions) -> Item:
        """Return the prompt of an example.

        Raises:
            InvalidData: one that does not go with ``system`` or ``raw``.
        """
        if isinstance(example, PromptExample):
            return _from_text(example.prompt, options)
        if isinstance(example, ChatExample):
            return _from_turns(example.messages, options, example.where)
        if options.system is not None:
            raise InvalidData(
                f"{example.where}: a whole text is continued without the chat template; leave --system out"
            )
        return Item(example.text, Prompt(example.text, raw=True))

    def answer(
        self,
        runner: Runner,
        contents: Sequence[str | Sequence[Message] | Prompt],
        adapter: LoadedAdapter | None = None,
        *,
        batch_size: int | None = None,
        max_length: int | None = None,
        strict: bool = False,
        options: GenerationOptions | None = None,
    ) -> list[Written]:
        """Answer prompts: strings, which are the user's turn where the model has a chat template; or conversations.

        Raises:
            InvalidData: a prompt that is too long, or that the chat template refuses; messages without a template.
        """
        self.check_runner(runner)
        settings = (options or GenerationOptions()).settings
        prompts = [one if isinstance(one, Prompt) else Prompt(_frozen(one)) for one in contents]
        return [
            Written(chat(runner, prompt.content, settings=settings, adapter=adapter, raw=prompt.raw))
            for prompt in prompts
        ]

    def _whole(self, examples: Sequence[Any]) -> list[Encoded]:
        """Return each example at its full length."""
        encoded: list[Encoded] = []
        faults: list[str] = []
        for index, example in enumerate(examples):
            if not isinstance(example, ChatExample | PromptExample | TextExample):
                raise TypeError(f"{self.words} takes ChatExample, PromptExample and TextExample only")
            try:
                item = encode_dialogue(example, self.tokenizer, self.text)
            except InvalidData as error:
                faults.append(f"{place_of(examples, index)}: {error}")
                continue
            if not item.weight:
                faults.append(f"{place_of(examples, index)}: no token of it is the model's to write")
            encoded.append(item)
        if faults:
            raise InvalidData(f"{len(faults)} example(s) cannot be learned from{listed(faults)}")
        return encoded


def _frozen(content: str | Sequence[Message]) -> str | tuple[Message, ...]:
    return content if isinstance(content, str) else tuple(content)


def _from_text(text: str, options: GenerationOptions) -> Item:
    if options.raw or options.system is None:
        return Item(text, Prompt(text, raw=options.raw))
    turns = (Message(role="system", content=options.system), Message(role="user", content=text))
    return Item(text, Prompt(turns))


def _from_turns(messages: Sequence[Message], options: GenerationOptions, where: str) -> Item:
    if options.raw:
        raise InvalidData(f"{where}: messages need the chat template; leave --raw out")
    turns = list(messages)
    # Files to learn from end in the answer that is wanted here.
    while turns and turns[-1].role == "assistant":
        turns.pop()
    if not turns:
        raise InvalidData(f"{where}: the assistant's messages only; expected one to answer")
    if options.system is not None:
        if turns[0].role in ("system", "developer"):
            raise InvalidData(f"{where}: has a message of the role {turns[0].role} already; leave --system out")
        turns.insert(0, Message(role="system", content=options.system))
    return Item(turns[-1].content, Prompt(tuple(turns)))
