import math
import re
from xml.etree import ElementTree as ET

import pytest

from fieldtune.training.charts import Series, line_chart, smoothed


def _points(svg):
    return [
        [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        for line in ET.fromstring(svg).iter("polyline")
    ]


def test_points_are_placed_on_linear_axes():
    svg = line_chart([Series(name="a", points=[(0, 0.0), (5, 0.5), (10, 1.0)], kind="first")], x_label="x", y_label="y")
    (line,) = _points(svg)
    (x0, y0), (x1, y1), (x2, y2) = line
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
    assert y1 == pytest.approx((y0 + y2) / 2, abs=0.1)
    assert x0 < x2
    assert y0 > y2  # pixels count from the top
    assert re.findall(r'class="tick"[^>]*>([^<]*)<', svg) == [
        *("0", "0.2", "0.4", "0.6", "0.8", "1"),
        *("0", "2", "4", "6", "8", "10"),
    ]


def test_percent_ticks():
    svg = line_chart(
        [Series(name="a", points=[(0, 0.5), (1, 0.82)], kind="first")], x_label="", y_label="", percent=True
    )
    assert "50 %" in svg
    assert "90 %" in svg


@pytest.mark.parametrize("points", [[(0, 0.3)], [(0, 0.3), (1, 0.3)], [(7, 0.0)], [(1, 1e-9), (2, 1e9)]])
def test_degenerate_series_stay_inside(points):
    svg = line_chart([Series(name="a", points=points, kind="first", dots=True)], x_label="x", y_label="y")
    box = ET.fromstring(svg).get("viewBox").split()
    for x, y in _points(svg)[0]:
        assert 0 <= x <= float(box[2])
        assert 0 <= y <= float(box[3])
    assert svg.count("<circle") == len(points)


def test_what_is_not_a_number_is_left_out():
    svg = line_chart(
        [Series(name="a", points=[(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)], kind="f")], x_label="", y_label=""
    )
    assert len(_points(svg)[0]) == 2
    assert line_chart([Series(name="a", points=[(0, math.nan)], kind="f")], x_label="", y_label="") == ""


def test_labels_are_escaped():
    svg = line_chart([Series(name="a", points=[(0, 1.0)], kind="f")], x_label="<x>", y_label='"&"')
    assert ET.fromstring(svg).get("aria-label") == '"&" by <x>'


def test_smoothing_is_a_trailing_mean():
    points = [(1, 1.0), (2, 2.0), (3, 6.0), (4, 1.0)]
    assert smoothed(points, 1) == points
    assert smoothed(points, 3) == [(1, 1.0), (2, 1.5), (3, 3.0), (4, 3.0)]
