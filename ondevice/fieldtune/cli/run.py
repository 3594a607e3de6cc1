"""``fieldtune run``: classify texts or images, or answer prompts, with any number of adapters over one base."""

import dataclasses
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fieldtune.cli.flags import DEFAULT_PROFILE, BundlePath, ColumnFlags, JsonFlag, OnMissingFlag, ProfileName
from fieldtune.serving.generation_settings import GenerationSettings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from fieldtune.bundle.manifest import TaskSpec
    from fieldtune.cli.run_inputs import Prompt
    from fieldtune.serving.runner import Classification, LoadedAdapter, Runner

INITIAL = "initial adapter"
"""What the bundle's own adapter is called, which runs where no other is given."""

_MOST_LABELS_SHOWN = 5


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
    """Classification: texts or images that go through the graph together; if not given, the profile's."""

    max_length: int | None = None
    """Classification of texts: tokens that longer ones are cut to; if not given, the profile's or the model's limit."""

    strict: bool = False
    """Classification of texts: refuse texts that are too long instead of cutting them."""

    system: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """Generation: the system message, ahead of each prompt."""

    raw: bool = False
    """Generation: continue the prompt as it stands, without the chat template."""

    columns: ColumnFlags = dataclasses.field(default_factory=ColumnFlags)
    settings: GenerationSettings = dataclasses.field(default_factory=GenerationSettings)


def run(command: Run, console: "Console") -> int:
    """Answer every text with every adapter; return the exit code."""
    from fieldtune.adapters.directory import initial_adapter
    from fieldtune.bundle.opening import open_bundle
    from fieldtune.cli.run_inputs import read_images, read_prompts, read_texts
    from fieldtune.data.examples import IMAGE_CLASSIFICATION, TEXT_GENERATION
    from fieldtune.hardware import load_profile
    from fieldtune.placement.targets import choose_for
    from fieldtune.runtime.providers import CPU_PROVIDER
    from fieldtune.serving.runner import Runner

    profile, bundle = load_profile(command.profile), open_bundle(command.bundle)
    task = bundle.manifest.task
    _check_flags(command, task)
    choice = choose_for(bundle, profile, on_missing=command.on_missing)
    if (choice.provider, choice.requested) != (CPU_PROVIDER, CPU_PROVIDER):
        console.print(f"provider: {choice}", markup=False, highlight=False, soft_wrap=True)
    # What is wrong with them is told before a session is opened, which can take a while.
    texts: list[str] = []
    images: list[Path] = []
    prompts: list[Prompt] = []
    if task.name == IMAGE_CLASSIFICATION:
        images = read_images(command, task, console)
    elif task.name == TEXT_GENERATION:
        prompts = read_prompts(command, task, console)
    else:
        texts = read_texts(command, task, console)
    runner = Runner(bundle, profile, on_missing=command.on_missing)
    if runner.placement:
        console.print(f"placement: {runner.placement}", markup=False, highlight=False, soft_wrap=True)
    adapters = [runner.load_adapter(path) for path in command.adapter]
    if not adapters:
        merged = bundle.manifest.merged
        adapters = [runner.load_adapter(initial_adapter(bundle), merged.adapter if merged else INITIAL)]
    if images:
        _classify_images(command, runner, adapters, images)
    elif prompts:
        _answer(command, runner, adapters, prompts)
    else:
        _classify(command, runner, adapters, texts)
    return 0


def _check_flags(command: Run, task: "TaskSpec") -> None:
    from fieldtune.cli.usage import UsageError
    from fieldtune.data.examples import CLASSIFICATIONS, IMAGE_CLASSIFICATION

    if command.texts and command.data is not None:
        raise UsageError("TEXT and --data: give one or the other")
    if command.raw and command.system is not None:
        raise UsageError("--system and --raw: a system message needs the chat template, which --raw leaves out")
    if command.batch_size is not None and command.batch_size < 1:
        raise UsageError(f"--batch-size is {command.batch_size}; expected at least 1")
    default = Run(bundle=command.bundle)
    if task.name in CLASSIFICATIONS:
        other, wrong = "text generation", _changed(command, default, ("system", "raw"))
        names = [field.name for field in dataclasses.fields(default.settings)]
        wrong += _changed(command.settings, default.settings, names)
    else:
        other, wrong = "text classification", _changed(command, default, ("batch_size", "max_length", "strict"))
    if not wrong and task.name == IMAGE_CLASSIFICATION:
        other, wrong = "text classification", _changed(command, default, ("max_length", "strict"))
    if wrong:
        raise UsageError(f"{', '.join(wrong)}: of {other} only, and {command.bundle} is for {task.name}")


def _changed(value: object, default: object, names: Sequence[str]) -> list[str]:
    """Return the flags whose fields differ from the default's."""
    return ["--" + name.replace("_", "-") for name in names if getattr(value, name) != getattr(default, name)]


def _classify(command: Run, runner: "Runner", adapters: "Sequence[LoadedAdapter]", texts: Sequence[str]) -> None:
    from fieldtune.cli.usage import UsageError

    try:
        results = [
            runner.classify(
                texts, adapter, batch_size=command.batch_size, max_length=command.max_length, strict=command.strict
            )
            for adapter in adapters
        ]
    except ValueError as error:
        raise UsageError(str(error)) from error
    cut = sum(found.truncated for found in results[0])
    if cut:
        warnings.warn(f"{cut} of {len(texts)} text(s) cut: longer than the limit (--max-length)", stacklevel=2)
    _print_classes(command, runner, "text", texts, adapters, results)


def _classify_images(
    command: Run, runner: "Runner", adapters: "Sequence[LoadedAdapter]", images: Sequence[Path]
) -> None:
    from fieldtune.cli.usage import UsageError

    try:
        results = [runner.classify_images(images, adapter, batch_size=command.batch_size) for adapter in adapters]
    except ValueError as error:
        raise UsageError(str(error)) from error
    _print_classes(command, runner, "image", list(map(str, images)), adapters, results)


def _print_classes(
    command: Run,
    runner: "Runner",
    kind: Literal["text", "image"],
    items: Sequence[str],
    adapters: "Sequence[LoadedAdapter]",
    results: "Sequence[Sequence[Classification]]",
) -> None:
    if not command.as_json:
        _print_table(kind, items, adapters, results)
        return
    for index, item in enumerate(items):
        for adapter, result in zip(adapters, results, strict=True):
            found = result[index]
            record = {
                kind: item,
                "adapter": adapter.name,
                "label": found.label,
                "probability": found.probability,
                "probabilities": found.probabilities,
                "emulated": runner.choice.emulated,
            }
            # Nothing of an image is ever cut off for its length.
            _print_line(record if kind == "image" else {**record, "truncated": found.truncated})


def _print_table(
    kind: str,
    items: Sequence[str],
    adapters: "Sequence[LoadedAdapter]",
    results: "Sequence[Sequence[Classification]]",
) -> None:
    from rich.markup import escape
    from rich.text import Text

    from fieldtune.cli.results import new_table, print_tables

    # The folder's name is enough where no two are called the same.
    folders = [Path(adapter.name).name for adapter in adapters]
    names = folders if len(set(folders)) == len(folders) else [adapter.name for adapter in adapters]
    table = new_table("", (kind, *(escape(name) for name in names)))
    for column in table.columns:
        column.overflow = "fold"
    for index, item in enumerate(items):
        # A single one has room for all its classes; in a list the likeliest is what one looks for.
        most = _MOST_LABELS_SHOWN if len(items) == 1 else 1
        table.add_row(Text(item), *(_cell(result[index], most) for result in results))
    print_tables(table)


def _cell(found: "Classification", most: int) -> "Text":
    from rich.text import Text

    from fieldtune.cli.results import percent

    likeliest = sorted(found.probabilities.items(), key=lambda item: -item[1])[:most]
    lines = [Text(f"{label} {percent(probability)}") for label, probability in likeliest]
    lines[0].stylize("bold")
    return Text("\n").join(lines)


def _answer(command: Run, runner: "Runner", adapters: "Sequence[LoadedAdapter]", prompts: "Sequence[Prompt]") -> None:
    from fieldtune.serving.generation import chat

    several = len(prompts) > 1 or len(adapters) > 1
    for prompt in prompts:
        if several and not command.as_json:
            _write(f"> {prompt.shown}\n")
        for adapter in adapters:
            pieces = chat(runner, prompt.content, settings=command.settings, adapter=adapter, raw=prompt.raw)
            if command.as_json:
                _print_line({"text": prompt.shown, "adapter": adapter.name, "answer": "".join(pieces)})
                continue
            if len(adapters) > 1:
                _write(f"{adapter.name}: ")
            for piece in pieces:
                _write(piece)
            _write("\n\n" if several else "\n")


def _print_line(record: Mapping[str, object]) -> None:
    from fieldtune.files.json_text import json_text

    _write(json_text(record, indent=None))


def _write(text: str) -> None:
    sys.stdout.write(text)
    # An answer appears as it is written, through a pipe, too.
    sys.stdout.flush()
