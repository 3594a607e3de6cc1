"""Scores of whole entities, worked out by hand; those of seqeval are in tests/golden/test_entity_scores.py."""

import numpy as np
import pytest

from fieldtune.bundle import IGNORE_INDEX
from fieldtune.tasks.tagging.entities import Entity
from fieldtune.tasks.tagging.scores import EntityMeter, Tally

LABELS = ("O", "B-person", "I-person", "B-place", "I-place")


def logits(*texts):
    """Logits by which these tags are the likeliest."""
    return np.eye(len(LABELS), dtype=np.float32)[np.array(texts)]


def values(meter):
    return {figure.name: figure.value for figure in meter.figures(0.0)}


def test_an_entity_is_right_in_type_and_both_ends_or_not_at_all():
    tally = Tally()
    expected = [Entity("person", 0, 1), Entity("place", 3, 3)]
    tally.add(expected, [Entity("person", 0, 1), Entity("place", 3, 4), Entity("person", 3, 3)])
    precision, recall, f1 = tally.scores()
    assert (precision, recall) == (1 / 3, 1 / 2)
    assert f1 == pytest.approx(2 / 5)
    # Counts add up over texts; shares of texts are never averaged.
    tally.add([Entity("place", 0, 0)], [Entity("place", 0, 0)])
    assert tally.scores()[:2] == (2 / 4, 2 / 3)


def test_nothing_expected_and_nothing_guessed_is_zero():
    assert Tally().scores() == (0.0, 0.0, 0.0)
    assert values(EntityMeter(LABELS))["token_accuracy"] == 0.0


def test_a_batch_is_counted_where_it_has_labels_alone():
    meter = EntityMeter(LABELS)
    skip = IGNORE_INDEX
    # Ann Marie [piece] in Rome [padding]: the two ends of "person" are right, "place" is missed; what is said of
    # the piece and of the padding does not count.
    labels = np.array([[1, 2, skip, 0, 3, skip], [skip] * 6])
    guesses = logits([1, 2, 4, 0, 0, 3], [1] * 6)
    meter.add(np.array([0, 1]), {"labels": labels}, {"logits": guesses})
    assert values(meter) == {
        "f1": pytest.approx(2 / 3),
        "precision": 1.0,
        "recall": 0.5,
        "strict_f1": pytest.approx(2 / 3),
        "strict_precision": 1.0,
        "strict_recall": 0.5,
        "token_accuracy": 3 / 4,
    }


def test_an_entity_without_a_beginning_counts_leniently_alone():
    meter = EntityMeter(LABELS)
    labels = np.array([[1, 2, 0]])
    meter.add(np.array([0]), {"labels": labels}, {"logits": logits([2, 2, 0])})
    found = values(meter)
    assert (found["f1"], found["strict_f1"], found["token_accuracy"]) == (1.0, 0.0, 2 / 3)


def test_the_figure_that_matters_most_comes_first_and_all_are_shares():
    figures = EntityMeter(LABELS).figures(0.0)
    assert figures[0].words == "F1"
    assert {figure.unit for figure in figures} == {"%"}
