"""Which tasks there are, by optimum's names and synonyms."""

import pytest

from fieldtune.errors import UnsupportedModel
from fieldtune.tasks.table import task_class as device_class
from fieldtune.tasks.table import task_names
from fieldtune_offline.tasks.table import task_class


@pytest.mark.parametrize("name", task_names())
def test_both_halves_have_the_same_tasks(name):
    task = task_class(name)
    assert task.name == name
    assert (task.modality == "image") == ("image" in device_class(name).columns)


def test_a_synonym_that_optimum_knows():
    assert task_class("sequence-classification") is task_class("text-classification")
    assert task_class("causal-lm") is task_class("text-generation")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "fill-mask",
            "task 'fill-mask' is known, but not supported; supported: image-classification, ",
        ),
        ("text-clasification", "task 'text-clasification' is unknown; supported: .*text-classification"),
    ],
)
def test_other_tasks_are_refused_with_those_that_there_are(name, message):
    with pytest.raises(UnsupportedModel, match=message):
        task_class(name)
