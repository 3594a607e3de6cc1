from fieldtune.tasks.tagging.texts import Span
from fieldtune.tasks.tagging.word_tags import from_spans, repair_note, repaired

BIO = ("O", "B-person", "I-person", "B-place", "I-place")
IOBES = ("O", *(f"{prefix}-{kind}" for kind in ("person", "place") for prefix in "BIES"))


def test_tags_that_the_scheme_forbids_are_repaired():
    tags, changes = repaired(("a", "b", "c"), (0, 2, 2), BIO, "BIO")
    assert (tags, changes) == ((0, 1, 2), ["word 2 'b': 'I-person' after 'O'; expected 'B-person'"])
    tags, changes = repaired(("a", "b"), (4, 2), BIO, "BIO")
    assert tags == (3, 1)
    assert changes[0] == "word 1 'a': 'I-place' after nothing; expected 'B-place'"
    assert repaired(("a", "b"), (1, 2), BIO, "BIO") == ((1, 2), [])


def test_iobes_tags_are_repaired_by_what_follows_too():
    given = tuple(IOBES.index(tag) for tag in ("B-person", "I-person", "O", "B-place"))
    tags, changes = repaired(("a", "b", "c", "d"), given, IOBES, "IOBES")
    assert [IOBES[tag] for tag in tags] == ["B-person", "E-person", "O", "S-place"]
    assert changes == [
        "word 2 'b': 'I-person' after 'B-person'; expected 'E-person'",
        "word 4 'd': 'B-place' after 'O'; expected 'S-place'",
    ]


def test_a_note_says_how_many_and_the_first():
    rest = "repaired: BIO does not allow them where they are (the first: x)"
    assert repair_note(["x"], "BIO") == f"1 tag {rest}"
    assert repair_note(["x", "y"], "BIO") == f"2 tags {rest}"


def test_spans_become_tags_of_the_words_that_they_hold():
    spans, words = (Span(0, 3, "person"), Span(7, 15, "place")), ((0, 3), (4, 6), (7, 10), (11, 15))
    assert from_spans("Ann in New York", spans, words, BIO, "BIO") == ((1, 0, 3, 4), [])
    tags, _ = from_spans("Ann in New York", spans, words, IOBES, "IOBES")
    assert [IOBES[tag] for tag in tags] == ["S-person", "O", "B-place", "E-place"]


def test_every_fault_of_a_text_is_told():
    spans, words = (Span(1, 3, "person"), Span(6, 7, "place")), ((0, 3), (4, 6), (7, 10))
    assert from_spans("Ann in Rom", spans, words, BIO, "BIO") == (
        (),
        [
            "span 1 to 3 ('nn') cuts through a word; did you mean 0 to 3 ('Ann')?",
            "span 6 to 7 (' ') holds no token",
        ],
    )


def test_spans_of_several_words_need_an_inside():
    words = ((0, 3), (4, 8))
    lacking = "spans of several words need the labels 'I-place', which the bundle does not have"
    assert from_spans("new york", (Span(0, 8, "place"),), words, ("O", "B-place"), "BIO") == ((), [lacking])
