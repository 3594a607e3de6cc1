"""The tree of errors is what its docstring draws, and lists of faults have an end."""

import re

import pytest

from fieldtune import errors
from fieldtune.errors import MOST_FAULTS, FieldtuneError, listed

CLASSES = {
    name: found for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, Exception)
}


def drawn():
    """Class → the class above it, by how far each line of the docstring is indented."""
    above, parents = [], {}
    for line in errors.__doc__.splitlines():
        found = re.match(r"([│├└─ ]*)([A-Z]\w+)(?= {2,}|$)", line)
        if found and found[2] in CLASSES:
            depth = len(found[1]) // 4
            parents[found[2]] = above[depth - 1] if depth else None
            above[depth:] = [found[2]]
    return parents


def test_every_error_is_drawn_below_the_one_that_it_is_of():
    assert drawn() == {
        name: None if found is FieldtuneError else found.__bases__[0].__name__ for name, found in CLASSES.items()
    }


@pytest.mark.parametrize("name", CLASSES)
def test_every_error_is_one_that_a_user_can_repair(name):
    assert issubclass(CLASSES[name], FieldtuneError)
    assert not issubclass(CLASSES[name], ValueError | TypeError | OSError)


def test_faults_are_listed_up_to_a_number_and_the_rest_counted():
    assert listed([]) == ""
    assert listed(["a", "b"]) == "\n  - a\n  - b"
    full = [str(number) for number in range(MOST_FAULTS)]
    assert listed(full).count("\n") == MOST_FAULTS
    assert listed([*full, "x", "y"]) == listed(full) + "\n  … and 2 more"
