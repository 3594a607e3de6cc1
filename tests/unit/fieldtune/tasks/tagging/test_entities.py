import pytest

from fieldtune.tasks.tagging.entities import Entity, entities, scheme_of, strict_entities, tags_of

BIO = ("O", "B-person", "I-person", "B-place", "I-place")
IOBES = ("O", *(f"{prefix}-{kind}" for kind in ("person", "place") for prefix in "BIES"))


def test_the_scheme_is_found_from_the_labels():
    assert scheme_of(BIO) == scheme_of(("I-x", "O", "B-x")) == scheme_of(("O", "B-geo-loc")) == "BIO"
    assert scheme_of(IOBES) == "IOBES"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("LABEL_0", "LABEL_1"), "labels of no scheme: 'LABEL_0', 'LABEL_1'; expected O and, for each type"),
        (("NOUN", "VERB", "O"), "of no scheme: 'NOUN', 'VERB'"),
        (("B-x", "I-x"), "of no scheme: there is no O"),
        (("O",), "there is only O"),
        ((), "there is no O"),
        (("O", "B-", "I-x"), "of no scheme: 'B-'"),
        (("O", "L-x", "U-x", "B-x"), "of no scheme: 'L-x', 'U-x'"),
        (("O", "I-x"), "labels of BIO without 'B-x'"),
        (("O", "B-x", "I-x", "E-x"), "labels of IOBES without 'S-x'"),
    ],
)
def test_labels_of_no_scheme(labels, message):
    with pytest.raises(ValueError, match=message):
        scheme_of(labels)


def test_entities_leniently_and_strictly():
    tags = ["O", "I-person", "I-person", "B-place", "I-person", "O", "B-person", "I-person"]
    assert entities(tags) == [
        Entity("person", 1, 2), Entity("place", 3, 3), Entity("person", 4, 4), Entity("person", 6, 7),
    ]  # fmt: skip
    assert strict_entities(tags, "BIO") == [Entity("place", 3, 3), Entity("person", 6, 7)]
    tags = ["B-person", "E-person", "S-place", "B-place", "I-place", "O", "E-place"]
    assert strict_entities(tags, "IOBES") == [Entity("person", 0, 1), Entity("place", 2, 2)]
    assert entities(tags)[2:] == [Entity("place", 3, 4), Entity("place", 6, 6)]


def test_tags_of_entities():
    named = [Entity("person", 0, 2), Entity("place", 3, 3)]
    assert tags_of(named, 5, "BIO") == ["B-person", "I-person", "I-person", "B-place", "O"]
    assert tags_of(named, 5, "IOBES") == ["B-person", "I-person", "E-person", "S-place", "O"]
