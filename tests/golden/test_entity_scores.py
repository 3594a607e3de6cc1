"""Scores of entities beside those of seqeval 1.2.2, which ``entity_scores.json`` holds with the tags that they are of.

With seqeval installed, ``python tests/golden/test_entity_scores.py`` makes the file again.
"""

import json
import random
import warnings
from pathlib import Path

import pytest

from fieldtune.tasks.tagging.scores import EntityMeter

GOLDEN = Path(__file__).with_suffix("").with_name("entity_scores.json")
LABELS = {
    scheme: ["O", *(f"{prefix}-{kind}" for kind in ("person", "geo-loc") for prefix in prefixes)]
    for scheme, prefixes in (("BIO", "BI"), ("IOBES", "BIES"))
}
CASES = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else []


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['name']}-{case['scheme']}")
def test_scores_are_those_of_seqeval(case):
    meter = EntityMeter(LABELS[case["scheme"]])
    for expected, found in zip(case["expected"], case["found"], strict=True):
        meter.compare(expected.split(), found.split())
    figures = {figure.name: figure.value for figure in meter.figures(0.0)}
    assert [figures[name] for name in ("precision", "recall", "f1")] == case["default"]
    assert [figures[name] for name in ("strict_precision", "strict_recall", "strict_f1")] == case["strict"]


def test_the_cases_tell_the_modes_apart():
    assert len(CASES) > 40
    assert sum(case["default"] != case["strict"] for case in CASES) > 20
    assert any(case["default"] == [0, 0, 0] for case in CASES), "nothing right is 0, not a division by 0"


def _by_hand() -> list[tuple[str, str, list[str], list[str]]]:
    return [
        ("right", "BIO", ["B-person I-person O B-geo-loc"], ["B-person I-person O B-geo-loc"]),
        ("none", "BIO", ["O O"], ["O O"]),
        ("all-missed", "BIO", ["B-person O"], ["O O"]),
        ("all-made-up", "BIO", ["O O"], ["B-person O"]),
        ("no-beginning", "BIO", ["O B-person I-person"], ["O I-person I-person"]),
        ("other-type-inside", "BIO", ["B-person I-person O"], ["B-person I-geo-loc O"]),
        ("one-too-long", "BIO", ["B-person O O"], ["B-person I-person O"]),
        ("wrong-type", "BIO", ["B-person I-person"], ["B-geo-loc I-geo-loc"]),
        ("two-in-a-row", "BIO", ["B-person B-person"], ["B-person I-person"]),
        ("ends-of-texts", "BIO", ["O B-person", "I-person O"], ["O B-person", "B-person O"]),
        ("right", "IOBES", ["B-person E-person S-geo-loc"], ["B-person E-person S-geo-loc"]),
        ("no-end", "IOBES", ["B-person E-person O"], ["B-person I-person O"]),
        ("single-as-beginning", "IOBES", ["S-person O"], ["B-person O"]),
        ("only-ends", "IOBES", ["B-person E-person"], ["E-person E-person"]),
        ("single-goes-on", "IOBES", ["S-person O"], ["S-person I-person"]),
    ]


def _drawn() -> list[tuple[str, str, list[str], list[str]]]:
    chance = random.Random(7)
    cases = []
    for number in range(30):
        for scheme, labels in LABELS.items():
            expected = [[chance.choice(labels) for _ in range(chance.randint(1, 12))] for _ in range(4)]
            # Mostly the expected tags, so that something is right.
            found = [[tag if chance.random() < 0.8 else chance.choice(labels) for tag in tags] for tags in expected]
            cases.append((f"drawn-{number}", scheme, list(map(" ".join, expected)), list(map(" ".join, found))))
    return cases


def _write() -> None:
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
    from seqeval.metrics.v1 import precision_recall_fscore_support as strict_scores
    from seqeval.scheme import IOB2, IOBES

    warnings.simplefilter("ignore")
    cases = []
    for name, scheme, expected, found in (*_by_hand(), *_drawn()):
        texts = [[text.split() for text in side] for side in (expected, found)]
        default = precision_recall_fscore_support(*texts, average="micro")[:3]
        strict = strict_scores(*texts, average="micro", scheme=IOB2 if scheme == "BIO" else IOBES)[:3]
        scores = {"default": list(map(float, default)), "strict": list(map(float, strict))}
        cases.append({"name": name, "scheme": scheme, "expected": expected, "found": found, **scores})
    GOLDEN.write_text("[\n" + ",\n".join(map(json.dumps, cases)) + "\n]\n")


if __name__ == "__main__":
    _write()
