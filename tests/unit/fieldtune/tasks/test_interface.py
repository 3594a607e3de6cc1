"""What holds of every task unless it says something else."""

import pytest

from fieldtune.tasks.interface import Figure, Item, NoOptions
from fieldtune.tasks.table import task_class, task_names


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        (Figure(name="exact_match", value=0.5), "exact match"),
        (Figure(name="f1", value=0.5, unit="%"), "f1"),
        (Figure(name="majority_accuracy", value=0.5, title="majority class"), "majority class"),
    ],
)
def test_a_figure_goes_by_its_title_or_by_its_name_in_words(figure, words):
    assert figure.words == words


@pytest.mark.parametrize("name", task_names())
def test_a_task_says_what_its_columns_hold_and_what_it_answers(name):
    task = task_class(name)
    assert task.columns
    assert all(help_.strip() for help_ in task.columns.values())
    assert task.item.isalpha()
    assert task.takes <= {"batch_size", "max_length", "strict"}


def test_texts_are_items_as_they_are(sentiment):
    task = sentiment()
    assert task.words == "text classification"
    assert task.given(["good", "bad"], NoOptions(), print) == [Item("good", "good"), Item("bad", "bad")]
    assert list(task.asking_flags(NoOptions())) == []
    task.check_options(NoOptions())
