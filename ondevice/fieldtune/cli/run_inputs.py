"""What ``fieldtune run`` answers: texts, prompts or images from its arguments, a file or standard input."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fieldtune.data.examples import (
    ChatExample,
    ClassificationExample,
    Example,
    GenerationExample,
    ImageExample,
    Message,
    PromptExample,
    TextExample,
)
from fieldtune.data.reading import load_examples
from fieldtune.errors import InvalidData

if TYPE_CHECKING:
    from rich.console import Console

    from fieldtune.bundle.manifest import TaskSpec
    from fieldtune.cli.run import Run


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt:
    """What to answer: as people see it, as the model takes it, and whether it is continued without a template."""

    shown: str
    content: str | tuple[Message, ...]
    raw: bool


def read_texts(command: "Run", task: "TaskSpec", console: "Console") -> list[str]:
    """Return the texts to classify.

    Raises:
        InvalidData: there is none, or one that is not text.
    """
    if command.data is None:
        return _plain_texts(command, lines=True)
    return [example.text for example in _examples(command, task, console) if isinstance(example, ClassificationExample)]


def read_images(command: "Run", task: "TaskSpec", console: "Console") -> list[Path]:
    """Return the image files to classify; a folder stands for all images below it.

    Raises:
        InvalidData: there is none, or a folder without images.
    """
    from fieldtune.data.folders import image_files, left_out
    from fieldtune.data.images import is_folder

    if command.data is not None:
        return [example.path for example in _examples(command, task, console) if isinstance(example, ImageExample)]
    found: list[Path] = []
    for path in map(Path, _plain_texts(command, lines=True)):
        if not is_folder(path):
            found.append(path)
            continue
        images, others = image_files(path)
        found += images
        console.print(f"{path}: {len(images)} images{left_out(others)}", markup=False, highlight=False, soft_wrap=True)
    return found


def read_prompts(command: "Run", task: "TaskSpec", console: "Console") -> list[Prompt]:
    """Return the prompts to answer.

    Raises:
        InvalidData: there is none, one that is not text, or one that does not go with --system or --raw.
    """
    if command.data is None:
        return [_from_text(text, command) for text in _plain_texts(command, lines=False)]
    examples = _examples(command, task, console)
    return [
        _from_example(example, command)
        for example in examples
        if isinstance(example, PromptExample | ChatExample | TextExample)
    ]


def _examples(command: "Run", task: "TaskSpec", console: "Console") -> tuple[Example, ...]:
    assert command.data is not None
    examples, note = load_examples(command.data, task, command.columns.columns(), labelled=False)
    console.print(f"{command.data}: {note}", markup=False, highlight=False, soft_wrap=True)
    return examples


def _plain_texts(command: "Run", *, lines: bool) -> list[str]:
    if not command.texts:
        return _standard_input(lines=lines)
    for number, text in enumerate(command.texts, start=1):
        # Python turns bytes of an argument that are not UTF-8 into halves of surrogate pairs.
        if not text.strip() or any("\ud800" <= letter <= "\udfff" for letter in text):
            fault = "not UTF-8" if text.strip() else "empty"
            raise InvalidData(f"text {number} is {fault}; expected text in UTF-8")
    return list(command.texts)


def _standard_input(*, lines: bool) -> list[str]:
    if sys.stdin.isatty():
        sys.stderr.write("reading from the terminal to the end of input (Ctrl-D)\n")
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidData(f"standard input is not text in UTF-8 ({error})") from error
    texts = text.split("\n") if lines else [text.removesuffix("\n")]
    found = [item.removesuffix("\r") for item in texts if item.strip()]
    if not found:
        raise InvalidData(
            "no text: standard input is empty; give texts (or images, by their files) as arguments, in a file with "
            "--data, or on standard input"
        )
    return found


def _from_text(text: str, command: "Run") -> Prompt:
    if command.raw or command.system is None:
        return Prompt(text, text, command.raw)
    return Prompt(text, (Message(role="system", content=command.system), Message(role="user", content=text)), False)


def _from_example(example: GenerationExample, command: "Run") -> Prompt:
    if isinstance(example, PromptExample):
        return _from_text(example.prompt, command)
    if isinstance(example, ChatExample):
        return _from_turns(example.messages, command, example.where)
    if command.system is not None:
        raise InvalidData(f"{example.where}: a whole text is continued without the chat template; leave --system out")
    return Prompt(example.text, example.text, True)


def _from_turns(messages: Sequence[Message], command: "Run", where: str) -> Prompt:
    if command.raw:
        raise InvalidData(f"{where}: messages need the chat template; leave --raw out")
    turns = list(messages)
    # Files to learn from end in the answer that is wanted here.
    while turns and turns[-1].role == "assistant":
        turns.pop()
    if not turns:
        raise InvalidData(f"{where}: the assistant's messages only; expected one to answer")
    if command.system is not None:
        if turns[0].role in ("system", "developer"):
            raise InvalidData(f"{where}: has a message of the role {turns[0].role} already; leave --system out")
        turns.insert(0, Message(role="system", content=command.system))
    return Prompt(turns[-1].content, tuple(turns), False)
