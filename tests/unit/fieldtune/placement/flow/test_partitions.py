"""Groups of small graphs that can be checked by hand; what holds of every graph is in tests/property."""

import pytest

from fieldtune.placement.flow.partitions import convex_groups


@pytest.mark.parametrize(
    ("successors", "taken", "groups"),
    [
        ([], set(), ()),
        ([[1], [2], []], {0, 1, 2}, ((0, 1, 2),)),
        ([[1], [2], []], {0, 2}, ((0,), (2,))),
        ([[1, 2], [3], [3], []], {0, 1, 2, 3}, ((0, 1, 2, 3),)),
        ([[1, 2], [3], [3], []], {0, 1, 3}, ((0, 1), (3,))),
        ([[1, 2], [], []], {1, 2}, ((1,), (2,))),
        ([[2], [2, 3], [4], [4], []], {0, 1, 2, 4}, ((0, 1, 2), (4,))),
    ],
    ids=["nothing", "a line", "a gap", "a diamond", "a way round", "siblings", "two sources"],
)
def test_groups(successors, taken, groups):
    assert convex_groups(successors, taken) == groups
