"""The right answers of a row, each of which stands in the context where it is said to."""

import difflib
import re
from collections.abc import Iterator, Sequence

from fieldtune.data import Columns, Report, Row, checked_text, has_column, kind_of, shortened
from fieldtune.errors import quoted
from fieldtune.tasks.answering.questions import Span

_MOST_PLACES_SHOWN = 5


def right_answers(row: Row, columns: Columns, context: str, fault: Report) -> tuple[Span, ...]:
    """Return the right answers of a row; of faulty ones ``fault`` is told."""
    impossible = _truth(row.cells.get(columns.get("is_impossible", "")), columns.get("is_impossible", ""), fault)
    column = columns["answer"]
    # Where there is no answer, there need be no column of answers.
    if (impossible and column not in row.cells) or not has_column(row, column, fault):
        return ()
    beside = row.cells.get(columns.get("answer_start", ""))
    said = list(_said(row.cells[column], beside, repr(column), fault))
    if impossible:
        if said:
            fault(f"{column!r} holds {shortened(str(said[0][1]))}, but {columns['is_impossible']!r} says no answer")
        return ()
    if impossible is False and not said and row.cells[column] in ("", None, []):
        fault(f"{column!r} holds none, but {columns['is_impossible']!r} says that there is one")
    spans = [_placed(what, text, start, context, fault) for what, text, start in said]
    return tuple(span for span in spans if span is not None)


def _truth(value: object, column: str, fault: Report) -> bool | None:
    """Return what a cell says of whether there is no answer; None where it says nothing."""
    if value is None or value == "" or isinstance(value, bool):
        return value if isinstance(value, bool) else None
    words = {"true": True, "1": True, "false": False, "0": False}
    known = words.get(str(value).strip().lower())
    if known is None:
        fault(f"{column!r} is {kind_of(value)}; expected true or false")
    return known


def _said(value: object, beside: object, what: str, fault: Report) -> Iterator[tuple[str, object, object]]:
    """Yield each answer of a cell: what messages call it, its text, and where it is said to begin, if it is."""
    if value is None or value in ("", []):
        return
    if isinstance(value, list):
        for number, one in enumerate(value):
            if isinstance(one, str):
                yield f"{what}[{number}]", one, None
            elif isinstance(one, dict) and "text" in one:
                yield f"{what}[{number}]", one["text"], one.get("answer_start")
            else:
                fault(f"{what}[{number}] is {kind_of(one)}; expected an object with 'text' and 'answer_start'")
    elif not isinstance(value, dict):
        yield what, value, beside
    elif "text" in value:
        yield from _columnwise(value["text"], value.get("answer_start"), what, fault)
    else:
        fault(f"{what} is an object with {quoted(list(value)) or 'nothing'}; expected 'text' and 'answer_start'")


def _columnwise(texts: object, starts: object, what: str, fault: Report) -> Iterator[tuple[str, object, object]]:
    """Yield the answers of a list of texts beside a list of starts."""
    if not isinstance(texts, list):
        yield f"{what}['text']", texts, starts
    elif starts is None:
        yield from ((f"{what}['text'][{number}]", text, None) for number, text in enumerate(texts))
    elif not isinstance(starts, list) or len(starts) != len(texts):
        count = len(starts) if isinstance(starts, list) else kind_of(starts)
        fault(f"{what} has {len(texts)} in 'text' and {count} in 'answer_start'; expected as many of each")
    else:
        for number, (text, start) in enumerate(zip(texts, starts, strict=True)):
            yield f"{what}['text'][{number}]", text, start


def _placed(what: str, text: object, start: object, context: str, fault: Report) -> Span | None:
    """Return an answer with its place, once the context has it there; None after a fault."""
    answer = checked_text(text, what, fault)
    if answer is None:
        return None
    places = [match.start() for match in re.finditer(f"(?={re.escape(answer)})", context)]
    if start is None or start == "":
        if len(places) == 1:
            return Span(answer, places[0])
        if places:
            more = ", …" if len(places) > _MOST_PLACES_SHOWN else ""
            at = ", ".join(map(str, places[:_MOST_PLACES_SHOWN]))
            fault(f"{what}: {shortened(answer)} is in the context {len(places)} times (at {at}{more}); say which by "
                  "answer_start")  # fmt: skip
        else:
            fault(f"{what}: {_absent(answer, context)}")
        return None
    place = int(start) if isinstance(start, str) and start.strip().isdecimal() else start
    if not isinstance(place, int) or isinstance(place, bool):
        fault(f"{what}: answer_start is {kind_of(start)}; expected the number of a character")
    elif place in places:
        return Span(answer, place)
    else:
        fault(f"{what}: {_elsewhere(answer, place, places, context)}")
    return None


def _elsewhere(answer: str, place: int, places: Sequence[int], context: str) -> str:
    """Say what is wrong with an answer that does not stand where it is said to."""
    if not places:
        return _absent(answer, context)
    nearest = min(places, key=lambda one: abs(one - place))
    right = f"{shortened(answer)} begins at {nearest}"
    if not 0 <= place < len(context):
        return f"answer_start is {place}, and the context has {len(context)} characters; {right}"
    there = shortened(context[place : place + len(answer)])
    return f"answer_start is {place}, where the context has {there}; {right}"


def _absent(answer: str, context: str) -> str:
    said = f"{shortened(answer)} is not in the context"
    near = _nearest(answer, context)
    return f"{said}; nearest is {shortened(near.text)} at {near.start}" if near else said


def _nearest(answer: str, context: str) -> Span | None:
    """Return what differs from an answer by case or space alone, else what has at least half of it in one piece."""
    pattern = r"\s+".join(map(re.escape, answer.split()))
    if match := re.search(pattern, context, re.IGNORECASE):
        return Span(match.group(), match.start())
    matcher = difflib.SequenceMatcher(None, context, answer, autojunk=False)
    common = matcher.find_longest_match()
    if 2 * common.size < len(answer):
        return None
    start = max(0, common.a - common.b)
    return Span(context[start : common.a - common.b + len(answer)], start)
