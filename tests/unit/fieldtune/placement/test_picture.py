"""The picture that is drawn of where the pieces of a graph run."""

import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from fieldtune.placement.picture import placement_picture
from fieldtune.placement.pieces import Piece

PIECES = (
    Piece(graph="prefix_board", partition=None, operators={"QuantizeLinear": 1}, macs=0),
    Piece(graph="prefix_board", partition=0, operators={"Conv": 3}, macs=9_000_000),
    Piece(graph="suffix_infer", partition=None, operators={"Gemm": 1}, macs=1_000_000),
)


def drawn(pieces, **words):
    texts = {"accelerator": "a <board>", "source": "pixels", "boundary": "8 bytes", "result": "logits", **words}
    return placement_picture(pieces, **texts)


def test_the_picture_is_well_formed_and_has_every_piece():
    root = ET.fromstring(drawn(PIECES))
    groups = [group for group in root if group.tag == "g"]
    assert [group.get("class") for group in groups] == ["piece cpu", "piece accelerator", "piece cpu"]
    titles = [group.find("title").text for group in groups]
    assert titles[1] == "partition 1: 3 nodes, 9.0 M MACs (3 Conv)"
    words = [text.text for text in root.iter("text")]
    assert {"a <board>", "CPU", "pixels", "logits", "8 bytes"} <= set(words)


def test_the_cut_is_drawn_where_one_graph_ends_and_says_what_is_kept():
    assert drawn(PIECES[:2]).count('class="cut"') == 0
    assert drawn(PIECES).count('class="cut"') == 1
    assert "8 bytes, kept for later epochs" in drawn(PIECES, cached=True)


def test_without_an_accelerator_there_is_no_lane_for_it():
    words = [text.text for text in ET.fromstring(drawn(PIECES[2:], accelerator="")).iter("text")]
    assert "CPU" in words
    assert drawn(PIECES).count('class="lane"') == 2
    assert drawn(PIECES[2:], accelerator="").count('class="lane"') == 1


@pytest.mark.parametrize("count", [1, 3, 80, 400])
def test_boxes_stay_inside_the_picture_side_by_side(count):
    pieces = [
        Piece(graph="prefix_board", partition=index % 2 or None, operators={"Conv": 1}, macs=index * 1000)
        for index in range(count)
    ]
    boxes = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="60"', drawn(pieces))
    places = [(float(x), float(width)) for x, width in boxes]
    assert len(places) == count
    assert all(x + width <= 1000 - 79 for x, width in places)
    for (x, width), (following, _) in itertools.pairwise(places):
        assert following >= x + width - 0.11
