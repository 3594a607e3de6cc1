"""What classifications share: figures of classes, counted by hand, and an answer for people and for programs."""

import numpy as np

from fieldtune.bundle import IGNORE_INDEX
from fieldtune.data.examples import Encoded, EncodedSet
from fieldtune.tasks.classification import Classification, ClassMeter

ANSWER = Classification(label="mid", probabilities={"low": 0.25, "mid": 0.625, "high": 0.125}, truncated=False)


def encoded(*labels):
    return EncodedSet(
        examples=tuple(Encoded(arrays={"labels": np.array(label)}, weight=float(label >= 0)) for label in labels)
    )


def figures(meter):
    return {figure.name: figure.value for figure in meter.figures(0.0)}


def test_accuracy_stands_beside_what_the_most_frequent_class_alone_would_reach():
    labels = np.array([0, 2, 2, IGNORE_INDEX, 1])
    meter = ClassMeter(encoded(*labels))
    logits = np.array([[3, 0, 0], [0, 0, 1], [0, 5, 1], [9, 0, 0], [0, 1, 0]], np.float32)
    for rows in ([0, 1], [2, 3, 4]):
        meter.add(np.array(rows), {"labels": labels[rows]}, {"logits": logits[rows]})
    assert figures(meter) == {"accuracy": 3 / 4, "majority_accuracy": 2 / 4}
    accuracy, majority = meter.figures(0.0)
    assert (accuracy.better, majority.better, majority.words) == ("higher", None, "majority class")


def test_classes_that_no_example_has_are_no_majority():
    meter = ClassMeter(encoded(7, 7, 7))
    meter.add(np.array([0]), {"labels": np.array([7])}, {"logits": np.eye(8, dtype=np.float32)[[1]]})
    assert figures(meter) == {"accuracy": 0.0, "majority_accuracy": 1.0}


def test_people_see_the_likeliest_classes_first():
    assert ANSWER.lines(1) == ["mid 62.5 %"]
    assert ANSWER.lines(5) == ["mid 62.5 %", "low 25.0 %", "high 12.5 %"]


def test_programs_see_all_of_them_in_the_order_of_the_logits():
    record = ANSWER.record()
    assert list(record) == ["label", "probability", "probabilities", "truncated"]
    assert (record["label"], record["probability"], list(record["probabilities"])) == (
        "mid",
        0.625,
        ["low", "mid", "high"],
    )
    image = Classification(label="a", probabilities={"a": 1.0}, truncated=None)
    assert "truncated" not in image.record()
