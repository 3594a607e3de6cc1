"""The tags of a text's words: those that are given, repaired where the scheme forbids them, or those of its spans."""

from collections.abc import Sequence

from fieldtune.data import shortened
from fieldtune.errors import quoted
from fieldtune.tasks.tagging.entities import Entity, Scheme, entities, tags_of
from fieldtune.tasks.tagging.texts import Span


def repaired(
    words: Sequence[str], tags: Sequence[int], labels: Sequence[str], scheme: Scheme
) -> tuple[tuple[int, ...], list[str]]:
    """Return tags that the scheme allows, and what was changed, a line each."""
    given = [labels[index] for index in tags]
    right = tags_of(entities(given), len(given), scheme)
    changes = [
        f"word {place + 1} {shortened(words[place])}: {given[place]!r} {_after(given, place)}; "
        f"expected {right[place]!r}"
        for place in range(len(given))
        if given[place] != right[place]
    ]
    index_of = {label: index for index, label in enumerate(labels)}
    return tuple(index_of[tag] for tag in right), changes


def repair_note(repairs: Sequence[str], scheme: Scheme) -> str:
    """Say in one line how many tags were repaired, and how the first."""
    count = "1 tag" if len(repairs) == 1 else f"{len(repairs)} tags"
    return f"{count} repaired: {scheme} does not allow them where they are (the first: {repairs[0]})"


def from_spans(
    text: str, spans: Sequence[Span], words: Sequence[tuple[int, int]], labels: Sequence[str], scheme: Scheme
) -> tuple[tuple[int, ...], list[str]]:
    """Return the tags of a text's words, and what is wrong with its spans, a line each; without faults only the former.

    Args:
        text: the text.
        spans: the entities in it.
        words: start and end of each of its words.
        labels: names of the tags.
        scheme: of the labels.
    """
    faults: list[str] = []
    named: list[Entity] = []
    for span in spans:
        inside = [index for index, (start, end) in enumerate(words) if start < span.end and span.start < end]
        if not inside:
            faults.append(f"{span.said(text)} holds no token")
            continue
        start, end = words[inside[0]][0], words[inside[-1]][1]
        if start < span.start or span.end < end:
            whole = shortened(text[start:end])
            faults.append(f"{span.said(text)} cuts through a word; did you mean {start} to {end} ({whole})?")
        named.append(Entity(span.kind, inside[0], inside[-1]))
    if faults:
        return (), faults
    tags = tags_of(named, len(words), scheme)
    index_of = {label: index for index, label in enumerate(labels)}
    lacking = sorted({tag for tag in tags if tag not in index_of})
    if lacking:
        return (), [f"spans of several words need the labels {quoted(lacking)}, which the bundle does not have"]
    return tuple(index_of[tag] for tag in tags), []


def _after(tags: Sequence[str], place: int) -> str:
    before = repr(tags[place - 1]) if place else "nothing"
    follows = f" and before {tags[place + 1]!r}" if tags[place][0] != "I" and place + 1 < len(tags) else ""
    return f"after {before}{follows}"
