"""Line charts as SVG, for a page that has to stand alone: colours come from the page's style sheet."""

import dataclasses
import html
import math
from collections.abc import Sequence
from typing import TypeAlias

Point: TypeAlias = tuple[float, float]

_WIDTH, _HEIGHT = 520.0, 270.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 14.0, 14.0, 44.0
_TICKS = 5


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line of a chart.

    Attributes:
        name: in the legend.
        points: (x, y); a y that is not finite is left out.
        kind: its class in the style sheet; ``faint`` lines stay in the background.
        dots: whether each point is marked.
    """

    name: str
    points: Sequence[Point]
    kind: str
    dots: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class _Axis:
    """A linear scale from values to pixels, with round ticks."""

    ticks: tuple[float, ...]
    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def line_chart(series: Sequence[Series], *, x_label: str, y_label: str, percent: bool = False) -> str:
    """Return a chart as an SVG element; an empty string where there is no point to draw.

    Args:
        series: drawn in order, the first at the back.
        x_label: below the horizontal axis.
        y_label: beside the vertical axis.
        percent: whether y is a part of 1, to be written as percent.
    """
    shown = [dataclasses.replace(one, points=[p for p in one.points if math.isfinite(p[1])]) for one in series]
    shown = [one for one in shown if one.points]
    if not shown:
        return ""
    x_values = [x for one in shown for x, _ in one.points]
    y_values = [y for one in shown for _, y in one.points]
    x_axis = _axis(min(0.0, *x_values), max(x_values), _LEFT, _WIDTH - _RIGHT, whole=True)
    y_axis = _axis(min(y_values), max(y_values), _HEIGHT - _BOTTOM, _TOP, round_out=True)
    title = html.escape(f"{y_label} by {x_label}")
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{title}">',
        *_grid(x_axis, y_axis, percent=percent),
        *(_line(one, x_axis, y_axis) for one in shown),
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, x_label, "axis-label"),
        (
            f'<text class="axis-label" transform="translate(13 {(_TOP + _HEIGHT - _BOTTOM) / 2:g}) rotate(-90)" '
            f'text-anchor="middle">{html.escape(y_label)}</text>'
        ),
        "</svg>",
    ]
    return "\n".join(parts)


def smoothed(points: Sequence[Point], window: int) -> list[Point]:
    """Return the mean of each y and up to ``window - 1`` y before it, in (x, y) points."""
    values = [y for _, y in points]
    return [
        (x, sum(values[max(0, index - window + 1) : index + 1]) / min(index + 1, window))
        for index, (x, _) in enumerate(points)
    ]


def _axis(low: float, high: float, start: float, end: float, *, whole: bool = False, round_out: bool = False) -> _Axis:
    if high <= low:
        low, high = (low - 0.5, high + 0.5) if round_out else (low, low + 1)
    step = _round_step((high - low) / _TICKS)
    if whole:
        step = max(1.0, step)
    if round_out:
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    first = math.ceil(low / step - 1e-9)
    ticks = tuple(index * step for index in range(first, math.floor(high / step + 1e-9) + 1))
    return _Axis(ticks, low, high, start, end)


def _round_step(step: float) -> float:
    """Return the least of 1, 2 or 5 times a power of ten that is at least the step."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def _grid(x_axis: _Axis, y_axis: _Axis, *, percent: bool) -> list[str]:
    bottom, parts = y_axis.start, []
    for value in y_axis.ticks:
        y = y_axis.place(value)
        parts.append(f'<line class="grid" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
        name = f"{100 * value:.4g} %" if percent else f"{value:.4g}"
        parts.append(_text(_LEFT - 7, y + 4, name, "tick", anchor="end"))
    for value in x_axis.ticks:
        x = x_axis.place(value)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom:g}" y2="{bottom + 4:g}"/>')
        parts.append(_text(x, bottom + 17, f"{value:.6g}", "tick"))
    parts.append(f'<line class="axis" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{bottom:g}" y2="{bottom:g}"/>')
    return parts


def _line(series: Series, x_axis: _Axis, y_axis: _Axis) -> str:
    places = [(x_axis.place(x), y_axis.place(y)) for x, y in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline class="line {series.kind}" points="{path}"/>']
    if series.dots or len(places) == 1:
        parts += [f'<circle class="dot {series.kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in places]
    return "\n".join(parts)


def _text(x: float, y: float, text: str, kind: str, *, anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
