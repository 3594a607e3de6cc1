"""``fieldtune train``: adapt an adapter to examples and write it with its report."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fieldtune.cli.shared import (
    DEFAULT_PROFILE,
    BundlePath,
    ColumnFlags,
    FilePath,
    FolderPath,
    JsonFlag,
    OnMissingFlag,
    OptionalFolder,
    ProfileName,
    UsageError,
    evaluation_rows,
    named_columns,
    new_table,
    print_json,
    print_tables,
    say,
)
from fieldtune.training import TrainConfig

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fieldtune.adapters import Adapter
    from fieldtune.cli.shared import Opened
    from fieldtune.data import Example
    from fieldtune.tasks import Task
    from fieldtune.training import TrainReport

_INTERRUPTED = 130
_REPORT_BYTES = 8_000_000
"""Room that is asked for beside the adapter: the reports of a long run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Adapt a bundle's adapter to examples of this device.

    Writes a PEFT directory, with train_report.json and report.html in it. Ctrl-C ends the run with the work so far
    (exit code 130); a loss that is no longer a number ends it with the last good adapter (exit code 1).

    Examples:
      fieldtune train BUNDLE --data train.jsonl --eval eval.jsonl --out adapter
      fieldtune train BUNDLE --data photos --out adapter
      fieldtune train BUNDLE --data more.csv --adapter adapter --out adapter2 --epochs 1 --learning-rate 3e-4
    """

    bundle: BundlePath
    """Folder that fieldtune-offline build made."""

    data: FilePath
    """Examples to learn: .jsonl, .json, .ndjson, .csv or .tsv; or a folder with a sub-folder of images a label."""

    out: FolderPath
    """Folder for the adapter and the reports."""

    held_out: Annotated[Path | None, tyro.conf.arg(name="eval", metavar="FILE")] = None
    """Held-out examples: evaluated before, after each epoch and after training."""

    adapter: OptionalFolder = None
    """Adapter to continue, of the bundle's own rank; the bundle's initial one if not given."""

    profile: ProfileName = DEFAULT_PROFILE
    """Hardware profile: a name that fieldtune profiles lists, or a .toml file."""

    on_missing: OnMissingFlag = None
    """If the profile's provider is missing: fail, emulate its accelerator, or use the CPU; else as the profile says."""

    overwrite: bool = False
    """Replace the output folder if it holds an adapter."""

    as_json: JsonFlag = False
    """Print the report as one JSON object on stdout."""

    columns: ColumnFlags = dataclasses.field(default_factory=ColumnFlags)
    training: TrainConfig = dataclasses.field(default_factory=TrainConfig)


def run(command: Train, console: "Console") -> int:
    """Train, write the result, print the table; return the exit code."""
    from fieldtune.adapters import CONFIG_NAME, read_adapter
    from fieldtune.cli.shared import open_named, undisturbed
    from fieldtune.errors import OutputError
    from fieldtune.files import output_folder
    from fieldtune.training import rescue, write_run

    opened = open_named(command.bundle, command.profile, command.on_missing)
    opened.bundle.check_trainable()
    _ = opened.choice  # a provider that is missing is told before any work
    start = read_adapter(command.adapter or opened.bundle.adapter_path)
    needed = len(start.tensors.to_bytes()) + _REPORT_BYTES
    report: TrainReport | None = None
    try:
        with output_folder(
            command.out, overwrite=command.overwrite, marks=(CONFIG_NAME,), needed_bytes=needed
        ) as folder:
            report, fault = _train(command, opened, start, console)
            with undisturbed():
                write_run(report, folder)
    except (Exception, KeyboardInterrupt) as error:
        # Whatever goes wrong once there is an adapter: hours of work are worth a folder elsewhere.
        if report is None:
            raise
        raise OutputError(f"{error or type(error).__name__}; {rescue(report.adapter)}") from error
    return _tell(command, report, fault)


def _train(command: Train, opened: "Opened", start: "Adapter", console: "Console") -> "tuple[TrainReport, str]":
    """Return the report and, where the run diverged, what is to be said about it."""
    from fieldtune.adapters import adapter_labels
    from fieldtune.cli.shared import training_progress
    from fieldtune.tasks import open_task
    from fieldtune.training import RunDiverged, settle, train_adapter

    if command.training.keep == "best" and command.held_out is None:
        raise UsageError("--keep best needs --eval: held-out examples tell which adapter is best")
    try:
        settle(command.training, opened.profile, opened.bundle.manifest)
    except ValueError as error:
        raise UsageError(str(error)) from error
    # An adapter that names its labels otherwise than the bundle is trained on by its own names.
    task = open_task(opened.bundle, adapter_labels(start, opened.bundle.manifest))
    examples = _examples(command, command.data, task, console)
    held_out = None if command.held_out is None else _examples(command, command.held_out, task, console)
    try:
        with training_progress(console) as progress:
            report = train_adapter(
                opened.bundle,
                examples,
                command.training,
                opened.profile,
                evaluation=held_out,
                start=start,
                choice=opened.choice,
                progress=progress,
            )
    except RunDiverged as error:
        return error.report, str(error)
    if report.stopped == "interrupted" and not report.steps:
        raise KeyboardInterrupt
    return report, ""


def _examples(command: Train, path: Path, task: "Task", console: "Console") -> "tuple[Example, ...]":
    examples, note = task.read(path, named_columns(command.columns))
    say(console, f"{path}: {note}")
    return examples


def _tell(command: Train, report: "TrainReport", fault: str) -> int:
    if command.as_json:
        print_json({**report.to_json(), "out": command.out})
    else:
        print_tables(_table(report))
        sys.stdout.write(f"adapter and reports: {command.out}\n")
    sys.stdout.flush()
    if report.stopped == "interrupted":
        at = f"after step {report.steps[-1].step} of {report.planned_steps}"
        sys.stderr.write(f"fieldtune: interrupted {at}; the adapter so far is in {command.out}\n")
        return _INTERRUPTED
    if fault:
        sys.stderr.write(f"fieldtune: error: {fault}; it is in {command.out}\n")
        return 1
    return 0


def _table(report: "TrainReport") -> "Table":
    if not report.evaluations:
        table = new_table("Training", ("", ">first", ">last"))
        losses = [report.steps[0].loss, report.steps[-1].loss] if report.steps else []
        table.add_row("training loss", *(f"{loss:.4f}" for loss in losses))
        return table
    after = "after" if report.after else "after (not evaluated)"
    table = new_table("Held-out examples", ("", ">before", f">{after}"))
    for row in evaluation_rows((report.before, report.after)):
        table.add_row(*row)
    return table
