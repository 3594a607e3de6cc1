import pytest

from fieldtune.tasks.answering.scores import exact_match, f1, normalized


def test_what_is_compared():
    assert normalized("The  Eiffel-Tower, a\ttower!") == "eiffeltower tower"
    assert normalized("an athenaeum in Athens") == "athenaeum in athens", "articles are whole words"
    assert normalized("the") == ""


@pytest.mark.parametrize(
    ("answer", "right", "exact", "overlap"),
    [
        ("the Black Cat.", ["black cat"], 1, 1),
        ("black", ["the black cat"], 0, 2 / 3),
        ("a cat and a cat", ["cat"], 0, 0.5),
        ("cat cat", ["cat dog cat"], 0, 0.8),
        ("dog", ["cat"], 0, 0),
        ("1815", ["in 1815", "1815", "the year"], 1, 1),
        ("in the year", ["1815", "in 1815"], 0, 0.5),
        ("", [], 1, 1),
        ("", ["cat"], 0, 0),
        ("cat", [], 0, 0),
        ("the", ["cat"], 0, 0),
        ("", ["the", "?"], 1, 1),
        ("?", ["cat", "the"], 0, 0),
    ],
)
def test_exact_match_and_f1(answer, right, exact, overlap):
    assert exact_match(answer, right) == exact
    assert f1(answer, right) == pytest.approx(overlap)
