"""The report of a training run as one HTML page that needs nothing else: no script, no font, no network."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from fieldtune.adapters import method_of
from fieldtune.placement import placement_picture
from fieldtune.tasks import Figure
from fieldtune.training.batch_source import SplitReport
from fieldtune.training.charts import Series, line_chart, smoothed
from fieldtune.training.evaluation import Evaluation
from fieldtune.training.records import DataCounts
from fieldtune.training.report import TrainReport

_TEMPLATE = Path(__file__).with_name("page.html.jinja")
_ONE_LINE = {
    "completed": "All steps were taken.",
    "interrupted": "The run was interrupted; the adapter is the work until then.",
    "diverged": "The loss was no longer a number; the adapter is the last good one.",
}

Rows: TypeAlias = list[tuple[str, str]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Compared:
    """One line of the summary: a figure before and after, and how it changed."""

    name: str
    before: str
    after: str
    change: str = ""
    better: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Chart:
    """A chart with its title and legend: an SVG element, and (name, kind) of its lines."""

    title: str
    svg: str
    legend: Sequence[tuple[str, str]]


def report_page(report: TrainReport) -> str:
    """Return the text of the page."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        report=report,
        outcome=_ONE_LINE[report.stopped],
        figures=_figures(report),
        placement=_placement(report.split) if report.split else "",
        charts=[chart for chart in (_loss_chart(report), _figure_chart(report)) if chart.svg],
        sections=[
            ("Run", _run_rows(report)),
            ("Model", _model_rows(report)),
            ("Settings", _setting_rows(report)),
            ("Device", _device_rows(report)),
        ],
    )


def _figures(report: TrainReport) -> list[_Compared]:
    """Return the figures before and after: shares first, then the loss, then plain numbers."""
    evaluations = [evaluation for evaluation in (report.before, report.after) if evaluation]
    if not evaluations:
        return []
    loss = Figure(name="loss", value=evaluations[0].loss, better="lower")
    shares = [figure for figure in evaluations[0].figures if figure.unit == "%"]
    others = [figure for figure in evaluations[0].figures if figure.unit != "%"]
    return [_compared(figure, report) for figure in (*shares, loss, *others)]


def _compared(figure: Figure, report: TrainReport) -> _Compared:
    pair = [_value(each, figure.name) if each else None for each in (report.before, report.after)]
    form = ".1%" if figure.unit == "%" else ".4f" if figure.name == "loss" else ".2f"
    before, after = ("-" if value is None else format(value, form) for value in pair)
    name = figure.words.capitalize()
    if figure.better is None:
        known = after if before == "-" else before
        return _Compared(name=name, before=known, after=known)
    if pair[0] is None or pair[1] is None:
        return _Compared(name=name, before=before, after=after)
    change = pair[1] - pair[0]
    said = f"{100 * change:+.1f} points" if figure.unit == "%" else format(change, "+" + form)
    better = (change < 0) == (figure.better == "lower")
    return _Compared(name=name, before=before, after=after, change=said, better=better)


def _value(evaluation: Evaluation, name: str) -> float | None:
    return evaluation.loss if name == "loss" else evaluation.figure(name)


def _placement(split: SplitReport) -> str:
    placement = split.placement
    emulated = ", emulated" if placement.emulated else ""
    return placement_picture(
        split.pieces,
        accelerator=f"{placement.profile}: {placement.target}{emulated}" if placement.target else "",
        source="a sample",
        boundary=f"{split.boundary_bytes:,} bytes a sample",
        result="answers",
        cached=bool(split.activations.hits),
    )


def _loss_chart(report: TrainReport) -> _Chart:
    steps = [(float(step.step), step.loss) for step in report.steps]
    held_out = [(float(record.step), record.evaluation.loss) for record in report.evaluations]
    window = max(1, len(steps) // 20)
    series = [Series(name="each step", points=steps, kind="faint")] if window > 1 else []
    name = f"training, mean of {window} steps" if window > 1 else "training"
    series.append(Series(name=name, points=smoothed(steps, window), kind="first"))
    series.append(Series(name="held out", points=held_out, kind="second", dots=True))
    return _chart("Loss", series, "loss (nats)", percent=False)


def _figure_chart(report: TrainReport) -> _Chart:
    """Draw the figure that matters most, beside what adapting does not change."""
    figures = report.evaluations[0].evaluation.figures if report.evaluations else ()
    if not figures:
        return _Chart(title="", svg="", legend=())
    first = figures[0]
    kept = [figure for figure in figures[1:] if figure.better is None and figure.unit == first.unit]
    series = [Series(name=one.words, points=_points(report, one.name), kind="reference") for one in kept]
    series.append(Series(name="held out", points=_points(report, first.name), kind="second", dots=True))
    return _chart(first.words.capitalize(), series, first.words, percent=first.unit == "%")


def _points(report: TrainReport, name: str) -> list[tuple[float, float]]:
    points = [(float(record.step), record.evaluation.figure(name)) for record in report.evaluations]
    return [(step, value) for step, value in points if value is not None]


def _chart(title: str, series: Sequence[Series], y_label: str, *, percent: bool) -> _Chart:
    shown = [one for one in series if one.points]
    svg = line_chart(shown, x_label="optimizer step", y_label=y_label, percent=percent)
    return _Chart(title=title, svg=svg, legend=[(one.name, one.kind) for one in shown])


def _run_rows(report: TrainReport) -> Rows:
    steps = f"{len(report.steps)} of {report.planned_steps}"
    if report.skipped_steps:
        steps += f"; {report.skipped_steps} without any label skipped"
    rows = [("steps", steps), ("adapter kept", f"after step {report.kept_step}")]
    if report.skipped_microbatches:
        rows.append(("batches without labels", f"{report.skipped_microbatches}, skipped"))
    rows.append(("training examples", _data(report.train_data)))
    if report.evaluation_data:
        rows.append(("held-out examples", _data(report.evaluation_data)))
    seconds = report.training_seconds
    texts = report.subject.modality == "text"
    # Each image that counts has one label.
    count, unit = (report.tokens, "tokens") if texts else (sum(step.labels for step in report.steps), "images")
    speed = f" ({count / seconds:,.0f} {unit} a second)" if seconds else ""
    rows += _epoch_rows(report)
    included = _included(report)
    rows.append((f"time training{included}", f"{seconds:.1f} s{speed}"))
    rows.append((f"time altogether{included}", f"{report.seconds:.1f} s"))
    return rows


def _epoch_rows(report: TrainReport) -> Rows:
    if not report.epochs:
        return []
    included = _included(report)
    rows = [(f"seconds per epoch{included}", ", ".join(f"{epoch.seconds:.2f}" for epoch in report.epochs))]
    if report.split:
        prefix = "the emulated prefix" if included else "the prefix"
        rows.append((f"of these in {prefix}", ", ".join(f"{epoch.prefix_seconds:.2f}" for epoch in report.epochs)))
    return rows


def _included(report: TrainReport) -> str:
    """Return what is said beside every time that an emulation is part of: it says nothing about the accelerator."""
    split = report.split
    return ", emulation included" if split and split.placement.emulated and split.prefix_seconds else ""


def _setting_rows(report: TrainReport) -> Rows:
    config, cache = report.config, report.config.cache
    rows = [(field.name, _said(getattr(config, field.name))) for field in _fields(config) if field.name != "cache"]
    # Where nothing is split there is nothing to keep.
    return [*rows, *((field.name, _said(getattr(cache, field.name))) for field in _fields(cache) if report.split)]


def _model_rows(report: TrainReport) -> Rows:
    subject = report.subject
    rows = [
        ("base model", subject.base),
        ("architecture", subject.architecture),
        ("licence", subject.licence or "not known"),
        ("task", subject.task),
    ]
    if subject.labels:
        rows.append(("labels", ", ".join(subject.labels)))
    if method := method_of(report.adapter.config):
        rows.append((method.title, method.described(report.adapter.config)))
    rows.append(("trained parameters", f"{subject.parameters:,}"))
    return rows


def _device_rows(report: TrainReport) -> Rows:
    provider = report.provider
    rows = [
        ("hardware profile", report.profile),
        ("execution provider", f"{provider.provider}, {provider.reason}"),
        ("emulated", "yes: the CPU stands in for the accelerator" if provider.emulated else "no"),
        ("training backend", f"{report.backend.name}: {report.backend.reason}"),
    ]
    if report.placement:
        rows.append(("gradient graph", str(report.placement)))
    if report.split:
        rows += [("frozen prefix", str(report.split.placement)), ("activations", str(report.split.activations))]
    return [*rows, *report.environment.items()]


def _data(counts: DataCounts) -> str:
    said = f"{counts.examples:,}"
    said += f", {counts.truncated:,} of them truncated" if counts.truncated else ""
    said += f", {counts.dropped:,} more dropped" if counts.dropped else ""
    return "; ".join([said, *counts.notes])


def _fields(config: object) -> Sequence["dataclasses.Field[object]"]:
    return dataclasses.fields(config)  # type: ignore[arg-type]


def _said(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
