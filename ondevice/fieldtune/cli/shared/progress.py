"""Progress on stderr: bars on a terminal, a line now and then where there is none."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fieldtune.cli.shared.results import said, say
from fieldtune.training import (
    DataCounts,
    EpochRecord,
    Evaluating,
    Evaluation,
    EvaluationRecord,
    Event,
    Progress,
    Started,
    StepRecord,
    Ticks,
)

if TYPE_CHECKING:
    import rich.progress
    from rich.console import Console

_LINES = 10
"""How many lines a run without a terminal writes about its steps."""


@contextlib.contextmanager
def training_progress(console: "Console") -> Iterator[Progress]:
    """Give what shows the events of a training run."""
    with _bars(console) as bars:
        yield _TrainingProgress(console, bars).show


@contextlib.contextmanager
def evaluation_progress(console: "Console") -> Iterator[Ticks]:
    """Give what shows how far an evaluation is."""
    with _bars(console) as bars:
        task = bars.add_task("evaluating", total=None, note="")
        yield lambda done, total: bars.update(task, completed=done, total=total)


class _TrainingProgress:
    def __init__(self, console: "Console", bars: "rich.progress.Progress") -> None:
        self._console = console
        self._bars = bars
        self._planned = 0
        self._training = bars.add_task("training", total=None, note="")
        self._evaluating = bars.add_task("evaluating", total=None, note="", visible=False)

    def show(self, event: Event) -> None:
        if isinstance(event, Started):
            self._planned = event.planned_steps
            self._bars.update(self._training, total=self._planned)
            self._started(event)
        elif isinstance(event, StepRecord):
            note = f"loss {event.loss:.4f}  lr {event.learning_rate:.2e}"
            self._bars.update(self._training, completed=event.step, note=note)
            if not self._console.is_terminal and event.step % max(1, self._planned // _LINES) == 0:
                self._print(f"step {event.step}/{self._planned}: {note}")
        elif isinstance(event, Evaluating):
            self._bars.update(self._evaluating, completed=event.done, total=event.total, visible=True)
        elif isinstance(event, EpochRecord):
            self._print(_epoch_line(event))
        else:
            self._bars.update(self._evaluating, visible=False)
            self._print(_evaluated(event))

    def _started(self, event: Started) -> None:
        self._print(f"provider: {event.provider}")
        self._print(f"backend: {event.backend.name}, {event.backend.reason}")
        for placement in (event.split.placement if event.split else None, event.placement):
            if placement:
                self._print(f"placement: {placement}")
        for name, counts in (("training", event.train_data), ("held out", event.evaluation_data)):
            if counts:
                self._print(f"{name}: {counted(counts)}")

    def _print(self, line: str) -> None:
        say(self._console, line)


def counted(counts: DataCounts) -> str:
    """Say how many examples there are, and what became of those that were too long."""
    said = f"{counts.examples} examples"
    if counts.truncated:
        said += f", {counts.truncated} of them truncated"
    if counts.dropped:
        said += f", {counts.dropped} more dropped: nothing to learn from was left of them"
    return "; ".join([said, *counts.notes])


def _epoch_line(record: EpochRecord) -> str:
    """Say how long the steps of an epoch took, and what of it the frozen prefix did."""
    said = f"epoch {record.epoch}: {record.seconds:.2f} s"
    if not record.cached + record.computed:
        return said
    if not record.computed:
        return f"{said}; no prefix, {record.cached} from the cache"
    # No time of an emulation may pass for the accelerator's.
    included, prefix = (", emulation included", "emulated prefix") if record.prefix_emulated else ("", "prefix")
    took = f"{record.prefix_seconds:.2f} s for {record.computed} examples"
    return f"{said}{included}; {prefix} {took}, {record.cached} from the cache"


def _evaluated(record: EvaluationRecord) -> str:
    evaluation: Evaluation = record.evaluation
    first = "".join(f", {figure.words} {said(figure)}" for figure in evaluation.figures[:1])
    when = "before training" if record.step == 0 else f"epoch {record.epoch:.3g}, step {record.step}"
    return f"{when}: held-out loss {evaluation.loss:.4f}{first}"


def _bars(console: "Console") -> "rich.progress.Progress":
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        # Without a terminal the bars would only leave empty lines.
        disable=not console.is_terminal,
    )
