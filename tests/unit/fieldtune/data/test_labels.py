import pytest

from fieldtune.data.labels import LabelIndex


@pytest.mark.parametrize(
    ("cell", "index"), [("negative", 0), ("positive", 1), (" positive ", 1), (0, 0), (1, 1), ("0", 0), ("1", 1)]
)
def test_names_and_indices(cell: object, index: int) -> None:
    assert LabelIndex(["negative", "positive"]).find(cell) == index


@pytest.mark.parametrize(
    ("cell", "fault"),
    [
        (None, "no label"),
        ("  ", "no label"),
        (True, "the label is a truth value (true); expected a label's name or its index"),
        (1.0, "the label is a number (1.0); expected a label's name or its index"),
        (["positive"], "the label is a list; expected a label's name or its index"),
        (2, "label '2': no such index; expected 0 to 1"),
        ("-1", "label '-1': no such index; expected 0 to 1"),
        ("9" * 5000, f"label '{'9' * 39}…': no such index; expected 0 to 1"),
        ("Positve", "label 'Positve' is unknown (did you mean 'positive'?)"),
        ("zebra", "label 'zebra' is unknown"),
        ("²", "label '²' is unknown"),
    ],
)
def test_faults(cell: object, fault: str) -> None:
    assert LabelIndex(["negative", "positive"]).find(cell) == fault


def test_labels_that_are_numbers_are_names() -> None:
    stars = LabelIndex(["1", "2", "3"])
    assert [stars.find(cell) for cell in (1, "1", 3)] == [0, 0, 2]
    assert stars.find(0) == "label '0' is unknown"


def test_known_labels_are_shortened() -> None:
    assert LabelIndex(["no", "yes"]).known() == "0 'no', 1 'yes'"
    assert LabelIndex([f"l{number}" for number in range(25)]).known().endswith("19 'l19', … and 5 more")
