"""``fieldtune run``: answer texts, images or prompts, with any number of adapters over one base."""

import dataclasses
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fieldtune.cli.shared import (
    DEFAULT_PROFILE,
    BundlePath,
    ColumnFlags,
    JsonFlag,
    OnMissingFlag,
    ProfileName,
    TaskOptions,
    UsageError,
    changed_options,
    named_columns,
    names_of,
    names_that_take,
    new_table,
    options_of,
    print_tables,
    say,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from fieldtune.serving import LoadedAdapter, Runner
    from fieldtune.tasks import Answer, Item, Task

INITIAL = "initial adapter"
"""What the bundle's own adapter is called, which runs where no other is given."""

_MOST_LINES_SHOWN = 5
_SHARED = ("batch_size", "max_length", "strict")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Classify texts or images, or answer prompts, with a bundle and adapters of any rank and alpha.

    They come from the arguments, else from --data, else from standard input: a line each to classify, all of it as one
    prompt to answer. Images are named by their files, or by folders of them. Answers go to stdout, everything else to
    stderr.

    Examples:
      fieldtune run BUNDLE --adapter adapter "A moving, funny film."
      fieldtune run BUNDLE --adapter monday --adapter tuesday --data new.csv --json
      fieldtune run BUNDLE --adapter adapter photo.jpg more_photos
      fieldtune run BUNDLE --adapter adapter --system "Be brief." "My printer is offline."
      fieldtune run BUNDLE --temperature 0.7 --top-p 0.9 --seed 1 "Tell me a story."
      fieldtune run BUNDLE --raw < beginning.txt
    """

    bundle: BundlePath
    """Folder that fieldtune-offline build made."""

    texts: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[TEXT|IMAGE ...]")] = ()
    """What to classify or to answer: texts, or files and folders of images, as the bundle has it."""

    adapter: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="DIR")] = ()
    """Adapter to run with; give it several times to compare. The bundle's initial one if not given."""

    data: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Texts or images to classify, or texts to answer: .jsonl, .json, .ndjson, .csv or .tsv; or a folder of images."""

    profile: ProfileName = DEFAULT_PROFILE
    """Hardware profile: a name that fieldtune profiles lists, or a .toml file."""

    on_missing: OnMissingFlag = None
    """If the profile's provider is missing: fail, emulate its accelerator, or use the CPU; else as the profile says."""

    as_json: JsonFlag = False
    """Print one JSON object a line on stdout, for each text or image and adapter."""

    batch_size: int | None = None
    """Texts or images that go through the graph together; if not given, the profile's."""

    max_length: int | None = None
    """Tokens of a text that go in at once; if not given, as many as the profile or the model allows."""

    strict: bool = False
    """Refuse texts that are too long instead of cutting them."""

    columns: ColumnFlags = dataclasses.field(default_factory=ColumnFlags)
    options: TaskOptions = dataclasses.field(default_factory=TaskOptions)


def run(command: Run, console: "Console") -> int:
    """Answer everything with every adapter; return the exit code."""
    from fieldtune.cli.shared import open_named
    from fieldtune.serving import Runner
    from fieldtune.tasks import open_task

    opened = open_named(command.bundle, command.profile, command.on_missing)
    task = open_task(opened.bundle)
    options = _checked_options(command, task)
    if not opened.choice.is_plain:
        say(console, f"provider: {opened.choice}")
    # What is wrong with them is told before a session is opened, which can take a while.
    items = _items(command, task, options, console)
    runner = Runner(opened.bundle, opened.profile, choice=opened.choice)
    if runner.placement:
        say(console, f"placement: {runner.placement}")
    adapters = _adapters(command, runner)
    if task.streams:
        _stream(command, runner, task, options, adapters, items)
    else:
        _answer(command, runner, task, options, adapters, items)
    return 0


def _checked_options(command: Run, task: "Task") -> Any:
    """Return the options of the task, after a look at all flags."""
    if command.batch_size is not None and command.batch_size < 1:
        raise UsageError(f"--batch-size is {command.batch_size}; expected at least 1")
    options = options_of(command.options, task.options)
    try:
        task.check_options(options)
    except ValueError as error:
        raise UsageError(str(error)) from error
    sources = {"TEXT": bool(command.texts), "--data": command.data is not None}
    asking = [*(name for name, given in sources.items() if given), *task.asking_flags(options)]
    if len(asking) > 1:
        raise UsageError(f"{' and '.join(asking)}: give one or the other")
    default = Run(bundle=command.bundle)
    given = [name for name in _SHARED if getattr(command, name) != getattr(default, name)]
    wrong = {"--" + name.replace("_", "-"): names_that_take(name) for name in given if name not in task.takes}
    for kind, flags in changed_options(command.options).items():
        if kind is not task.options:
            wrong |= dict.fromkeys(flags, names_of(kind))
    if wrong:
        others = dict.fromkeys(name for names in wrong.values() for name in names)
        raise UsageError(
            f"{', '.join(wrong)}: of {', '.join(name.replace('-', ' ') for name in others)} only, "
            f"and {command.bundle} is for {task.name}"
        )
    return options


def _adapters(command: Run, runner: "Runner") -> "list[LoadedAdapter]":
    from fieldtune.adapters import initial_adapter

    adapters = [runner.load_adapter(path) for path in command.adapter]
    if adapters:
        return adapters
    merged = runner.bundle.manifest.merged
    return [runner.load_adapter(initial_adapter(runner.bundle), merged.adapter if merged else INITIAL)]


def _items(command: Run, task: "Task", options: Any, console: "Console") -> "list[Item]":
    """Return what is to be answered, from the arguments, a file, or standard input.

    Raises:
        InvalidData: there is nothing, or something that the task does not take.
    """

    def note(line: str) -> None:
        say(console, line)

    if command.data is None:
        texts = [] if task.asking_flags(options) else _plain_texts(command, lines=task.line_by_line)
        return task.given(texts, options, note)
    examples, said = task.read(command.data, named_columns(command.columns), labelled=False)
    note(f"{command.data}: {said}")
    return [task.asked(example, options) for example in examples]


def _plain_texts(command: Run, *, lines: bool) -> list[str]:
    from fieldtune.errors import InvalidData

    if not command.texts:
        return _standard_input(lines=lines)
    for number, text in enumerate(command.texts, start=1):
        # Python turns bytes of an argument that are not UTF-8 into halves of surrogate pairs.
        if not text.strip() or any("\ud800" <= letter <= "\udfff" for letter in text):
            fault = "not UTF-8" if text.strip() else "empty"
            raise InvalidData(f"text {number} is {fault}; expected text in UTF-8")
    return list(command.texts)


def _standard_input(*, lines: bool) -> list[str]:
    from fieldtune.errors import InvalidData

    if sys.stdin.isatty():
        sys.stderr.write("reading from the terminal to the end of input (Ctrl-D)\n")
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidData(f"standard input is not text in UTF-8 ({error})") from error
    texts = text.split("\n") if lines else [text.removesuffix("\n")]
    items = [item.removesuffix("\r") for item in texts if item.strip()]
    if not items:
        raise InvalidData(
            "no text: standard input is empty; give texts (or images, by their files) as arguments, in a file with "
            "--data, or on standard input"
        )
    return items


def _answer(
    command: Run,
    runner: "Runner",
    task: "Task",
    options: Any,
    adapters: "Sequence[LoadedAdapter]",
    items: "Sequence[Item]",
) -> None:
    contents = [item.content for item in items]
    shared = {name: getattr(command, name) for name in _SHARED if name in task.takes}
    try:
        results = [task.answer(runner, contents, adapter, options=options, **shared) for adapter in adapters]
    except ValueError as error:
        raise UsageError(str(error)) from error
    cut = sum(bool(answer.truncated) for answer in results[0])
    if cut:
        warnings.warn(f"{cut} of {len(items)} {task.item}(s) cut: longer than the limit (--max-length)", stacklevel=2)
    if not command.as_json:
        _print_table(task.item, items, adapters, results)
        return
    for index, item in enumerate(items):
        for adapter, result in zip(adapters, results, strict=True):
            _print_record(runner, task, item, adapter, result[index])


def _stream(
    command: Run,
    runner: "Runner",
    task: "Task",
    options: Any,
    adapters: "Sequence[LoadedAdapter]",
    items: "Sequence[Item]",
) -> None:
    """Answer one item after the other, each as it is written."""
    several = len(items) > 1 or len(adapters) > 1
    for item in items:
        if several and not command.as_json:
            _write(f"> {item.shown}\n")
        for adapter in adapters:
            (answer,) = task.answer(runner, [item.content], adapter, options=options)
            if command.as_json:
                _print_record(runner, task, item, adapter, answer)
                continue
            if len(adapters) > 1:
                _write(f"{adapter.name}: ")
            assert isinstance(answer, Iterable)
            for piece in answer:
                _write(piece)
            _write("\n\n" if several else "\n")


def _print_record(runner: "Runner", task: "Task", item: "Item", adapter: "LoadedAdapter", answer: "Answer") -> None:
    head = {task.item: item.shown, "adapter": adapter.name}
    _print_line({**head, **answer.record(), "emulated": runner.choice.emulated})


def _print_table(
    kind: str,
    items: "Sequence[Item]",
    adapters: "Sequence[LoadedAdapter]",
    results: "Sequence[Sequence[Answer]]",
) -> None:
    from rich.text import Text

    # The folder's name is enough where no two are called the same.
    folders = [Path(adapter.name).name for adapter in adapters]
    names = folders if len(set(folders)) == len(folders) else [adapter.name for adapter in adapters]
    table = new_table("", (kind, *names))
    for column in table.columns:
        column.overflow = "fold"
    # A single one has room for more; in a list the answer itself is what one looks for.
    most = _MOST_LINES_SHOWN if len(items) == 1 else 1
    for index, item in enumerate(items):
        table.add_row(Text(item.shown), *(_cell(result[index].lines(most)) for result in results))
    print_tables(table)


def _cell(said: "Sequence[str]") -> "Text":
    from rich.text import Text

    lines = [Text(line) for line in said]
    if lines:
        lines[0].stylize("bold")
    return Text("\n").join(lines)


def _print_line(record: "Mapping[str, object]") -> None:
    from fieldtune.files import json_text

    _write(json_text(record, indent=None))


def _write(text: str) -> None:
    sys.stdout.write(text)
    # An answer appears as it is written, through a pipe, too.
    sys.stdout.flush()
