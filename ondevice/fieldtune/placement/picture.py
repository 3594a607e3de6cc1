"""A picture of where a model runs, as SVG for a page that has to stand alone: colours come from its style sheet."""

import html
import itertools
import math
from collections.abc import Sequence

from fieldtune.placement.pieces import Piece

_WIDTH, _HEIGHT = 1000.0, 250.0
_LEFT, _RIGHT = 104.0, 80.0
_LANES = {"accelerator": 44.0, "cpu": 146.0}
_ROOM, _BOX = 44.0, 60.0
"""Room above a lane's boxes for its name, and the height of a box."""
_GAP, _LEAST = 16.0, 12.0
_WORDS = 88.0
"""The least width of a box that has room for words."""


def placement_picture(
    pieces: Sequence[Piece], *, accelerator: str, source: str, boundary: str, result: str, cached: bool = False
) -> str:
    """Return an SVG element: pieces from left to right, the accelerator's above and the CPU's below.

    Args:
        pieces: in the order in which they run; those of one graph lie together.
        accelerator: what the upper lane is called; "" for no such lane.
        source: what goes in.
        boundary: what is carried from each graph to the next.
        result: what comes out.
        cached: whether what crosses the boundary is kept for later epochs.
    """
    boxes = _boxes(pieces)
    label = html.escape(f"Where the model runs: {accelerator or 'CPU only'}")
    lanes = [("accelerator", accelerator), ("cpu", "CPU")] if accelerator else [("cpu", "CPU")]
    top = _LANES[lanes[0][0]] - _ROOM
    box = f"0 {top:g} {_WIDTH:g} {_HEIGHT - top:g}"
    parts = [f'<svg class="placement" viewBox="{box}" role="img" aria-label="{label}">']
    for lane, name in lanes:
        parts.append(f'<rect class="lane" x="0" y="{_LANES[lane] - 14:g}" width="{_WIDTH:g}" height="{_BOX + 28:g}"/>')
        parts.append(_text(8, _LANES[lane] - 20, name, "lane-name", "start"))
    parts += _wires(boxes)
    parts.append(_text(8, _middle(boxes[0][0]) + 4, source, "end", "start"))
    parts.append(_text(_WIDTH - 8, _middle(boxes[-1][0]) + 4, result, "end", "end"))
    parts += [_box(piece, x, width) for piece, x, width in boxes]
    parts += _cuts(boxes, f"{boundary}, kept for later epochs" if cached else boundary, top + _ROOM / 2)
    return "\n".join([*parts, "</svg>"])


def _boxes(pieces: Sequence[Piece]) -> list[tuple[Piece, float, float]]:
    """Return each piece with its place and width: the square root of its work, so that small ones are seen."""
    room = _WIDTH - _LEFT - _RIGHT - _GAP * (len(pieces) - 1)
    gap = _GAP if room > _LEAST * len(pieces) else 2.0
    room = _WIDTH - _LEFT - _RIGHT - gap * (len(pieces) - 1)
    least = min(_LEAST, room / len(pieces))
    weights = [math.sqrt(piece.macs) for piece in pieces]
    share = (room - least * len(pieces)) / (sum(weights) or 1.0)
    widths = [least + share * weight for weight in weights]
    starts = itertools.accumulate([_LEFT, *(width + gap for width in widths[:-1])])
    return list(zip(pieces, starts, widths, strict=True))


def _lane(piece: Piece) -> str:
    return "cpu" if piece.partition is None else "accelerator"


def _middle(piece: Piece) -> float:
    return _LANES[_lane(piece)] + _BOX / 2


def _box(piece: Piece, x: float, width: float) -> str:
    lane = _lane(piece)
    name = piece.graph if piece.partition is None else f"partition {piece.partition + 1}"
    work = f"{piece.macs / 1e6:,.1f} M MACs"
    operators = ", ".join(f"{count} {op}" for op, count in piece.operators.items())
    parts = [
        f'<g class="piece {lane}"><title>{html.escape(f"{name}: {piece.nodes} nodes, {work} ({operators})")}</title>',
        f'<rect x="{x:.1f}" y="{_LANES[lane]:g}" width="{width:.1f}" height="{_BOX:g}" rx="6"/>',
    ]
    if width >= _WORDS:
        middle = x + width / 2
        parts.append(_text(middle, _LANES[lane] + 25, name, "name", "middle"))
        parts.append(_text(middle, _LANES[lane] + 44, f"{piece.nodes} nodes, {work}", "work", "middle"))
    return "".join([*parts, "</g>"])


def _wires(boxes: Sequence[tuple[Piece, float, float]]) -> list[str]:
    """Return the lines from each piece to the next, and from and to the ends."""
    first, start, _ = boxes[0]
    last, end, width = boxes[-1]
    wires = [_wire(_LEFT - 14, _middle(first), start, _middle(first))]
    for (piece, x, wide), (following, place, _) in itertools.pairwise(boxes):
        wires.append(_wire(x + wide, _middle(piece), place, _middle(following)))
    return [*wires, _wire(end + width, _middle(last), _WIDTH - _RIGHT + 14, _middle(last))]


def _wire(x: float, y: float, to_x: float, to_y: float) -> str:
    bend = (x + to_x) / 2
    return f'<path class="wire" d="M{x:.1f} {y:.1f} H{bend:.1f} V{to_y:.1f} H{to_x:.1f}"/>'


def _cuts(boxes: Sequence[tuple[Piece, float, float]], words: str, top: float) -> list[str]:
    """Return a dashed line between the graphs, with what is carried over it."""
    parts = []
    for (piece, x, width), (following, place, _) in itertools.pairwise(boxes):
        if piece.graph != following.graph:
            middle = (x + width + place) / 2
            parts.append(f'<line class="cut" x1="{middle:.1f}" x2="{middle:.1f}" y1="{top:g}" y2="{_HEIGHT - 22:g}"/>')
            parts.append(_text(middle, _HEIGHT - 6, words, "cut-name", "middle"))
    return parts


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
