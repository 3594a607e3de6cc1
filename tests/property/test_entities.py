"""What holds of every sequence of tags, those that no scheme allows included; and that seqeval counts the same."""

import importlib.util
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldtune.tasks.tagging.entities import entities, scheme_of, strict_entities, tags_of
from fieldtune.tasks.tagging.scores import EntityMeter

KINDS = ("person", "geo-loc", "x")
LABELS = {
    scheme: ("O", *(f"{prefix}-{kind}" for kind in KINDS for prefix in prefixes))
    for scheme, prefixes in (("BIO", "BI"), ("IOBES", "BIES"))
}
SCHEMES = st.sampled_from(sorted(LABELS))


@st.composite
def texts(draw: st.DrawFn, several: int = 1) -> tuple[str, list[tuple[list[str], ...]]]:
    """A scheme, and texts of so many sequences of tags of one length each."""
    scheme = draw(SCHEMES)
    tags = st.sampled_from(LABELS[scheme])
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    made = [tuple(draw(st.lists(tags, min_size=n, max_size=n)) for _ in range(several)) for n in sizes]
    return scheme, made


@given(texts())
def test_entities_are_apart_and_in_order(drawn: tuple[str, list[tuple[list[str], ...]]]) -> None:
    scheme, made = drawn
    assert scheme_of(LABELS[scheme]) == scheme
    for (tags,) in made:
        for found in (entities(tags), strict_entities(tags, scheme)):
            places = [place for entity in found for place in range(entity.first, entity.last + 1)]
            assert places == sorted(set(places))
            assert all(tags[place][2:] == entity.kind for entity in found for place in range(entity[1], entity[2] + 1))
        # Leniently, every word with a type is of an entity.
        lenient = {place for _, first, last in entities(tags) for place in range(first, last + 1)}
        assert lenient == {place for place, tag in enumerate(tags) if tag != "O"}


@given(texts())
def test_repaired_tags_name_the_same_entities_in_both_modes(drawn: tuple[str, list[tuple[list[str], ...]]]) -> None:
    scheme, made = drawn
    for (tags,) in made:
        repaired = tags_of(entities(tags), len(tags), scheme)
        assert entities(repaired) == strict_entities(repaired, scheme) == entities(tags)
        assert tags_of(entities(repaired), len(tags), scheme) == repaired, "a second repair changes nothing"


@pytest.mark.skipif(
    importlib.util.find_spec("seqeval") is None,
    reason="seqeval is not installed (pip install seqeval); tests/golden has cases with its results",
)
@settings(deadline=None)  # the first use imports scikit-learn
@given(texts(several=2))
def test_seqeval_counts_the_same(drawn: tuple[str, list[tuple[list[str], ...]]]) -> None:
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
    from seqeval.metrics.v1 import precision_recall_fscore_support as strict_scores
    from seqeval.scheme import IOB2, IOBES

    scheme, made = drawn
    expected, found = ([list(pair[side]) for pair in made] for side in (0, 1))
    meter = EntityMeter(LABELS[scheme])
    for one, other in zip(expected, found, strict=True):
        meter.compare(one, other)
    figures = {figure.name: figure.value for figure in meter.figures(0.0)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of each score that would be 0 / 0
        default = precision_recall_fscore_support(expected, found, average="micro")
        kind = IOB2 if scheme == "BIO" else IOBES
        strict = strict_scores(expected, found, average="micro", scheme=kind)
    assert [figures[name] for name in ("precision", "recall", "f1")] == list(default[:3])
    assert [figures[name] for name in ("strict_precision", "strict_recall", "strict_f1")] == list(strict[:3])
