"""Entities by the tags of their words, in BIO (IOB2) or IOBES, as the package seqeval reads them.

Entities are read from tags in two ways: leniently (``entities``, seqeval's default mode, which is that of the script
conlleval of CoNLL-2000), where an entity also begins at an ``I-`` that nothing precedes; and strictly
(``strict_entities``), where tags that the scheme forbids name none.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from fieldtune.errors import quoted

OUTSIDE = "O"


_LABEL = re.compile("O|[BIES]-(?:[^-]|[^-].*[^-])")
"""No hyphen at either end of a type, where the two modes of seqeval would not see the same one."""


Scheme: TypeAlias = Literal["BIO", "IOBES"]


class Entity(NamedTuple):
    """An entity: its type, and its first and last word."""

    kind: str
    first: int
    last: int


def scheme_of(labels: Sequence[str]) -> Scheme:
    """Return the scheme of labels ``O``, ``B-TYPE``, ``I-TYPE`` and, of IOBES, ``E-TYPE`` and ``S-TYPE``.

    Raises:
        ValueError: labels of neither; what is wrong with which is in the message.
    """
    expected = "expected O and, for each type, B-TYPE and I-TYPE (BIO), or B-, I-, E- and S-TYPE (IOBES)"
    strange = [label for label in labels if not _LABEL.fullmatch(label)]
    if strange or OUTSIDE not in labels or len(labels) < 2:
        what = quoted(strange) if strange else f"there is no {OUTSIDE}" if OUTSIDE not in labels else "there is only O"
        raise ValueError(f"labels of no scheme: {what}; {expected}")
    scheme: Scheme = "IOBES" if any(label[0] in "ES" for label in labels) else "BIO"
    needed = "BIES" if scheme == "IOBES" else "B"
    wanted = [f"{prefix}-{kind}" for kind in kinds_of(labels) for prefix in needed]
    missing = [label for label in wanted if label not in labels]
    if missing:
        raise ValueError(f"labels of {scheme} without {quoted(missing)}; {expected}")
    return scheme


def kinds_of(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the types of entities, in the order of the labels."""
    return tuple(dict.fromkeys(label[2:] for label in labels if label != OUTSIDE))


def entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities of a text's tags as seqeval's default mode reads them, in either scheme."""
    named: list[Entity] = []
    prefix, kind = OUTSIDE, ""
    for place, tag in enumerate(tags):
        before, kind_before = prefix, kind
        prefix, kind = tag[0], tag[2:]
        if prefix == OUTSIDE:
            continue
        if prefix in "BS" or before in "ESO" or kind != kind_before:
            named.append(Entity(kind, place, place))
        else:
            named[-1] = named[-1]._replace(last=place)
    return named


def strict_entities(tags: Sequence[str], scheme: Scheme) -> list[Entity]:
    """Return the entities of a text's tags as seqeval's strict mode reads them."""
    named: list[Entity] = []
    place = 0
    while place < len(tags):
        first, kind = place, tags[place][2:]
        opened = tags[place][0] == "B"
        place += 1
        while opened and place < len(tags) and tags[place] in (f"I-{kind}", f"E-{kind}"):
            opened = tags[place][0] == "I"
            place += 1
        closed = scheme == "BIO" or tags[place - 1][0] in "ES"
        if tags[first][0] in "BS" and closed:
            named.append(Entity(kind, first, place - 1))
    return named


def tags_of(named: Sequence[Entity], count: int, scheme: Scheme) -> list[str]:
    """Return the tags of a text of so many words."""
    tags = [OUTSIDE] * count
    for kind, first, last in named:
        prefixes = ["B", *"I" * (last - first)]
        if scheme == "IOBES":
            prefixes[-1] = "E" if last > first else "S"
        tags[first : last + 1] = [f"{prefix}-{kind}" for prefix in prefixes]
    return tags
