"""How far a long stage has got is told now and then, with what is left."""

import pytest

from fieldtune_offline import progress


@pytest.fixture
def clock(monkeypatch):
    """The seconds that have passed, in a list of one number."""
    passed = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: passed[0])
    return passed


def test_a_line_at_most_every_ten_seconds_with_what_is_left(clock):
    lines = []
    count = progress.counted(lines.append, "packed")
    for done in range(8):
        clock[0] = 4.0 * done
        count(done, 8)
    assert lines == ["packed: 3 of 8, about 20 s to go", "packed: 6 of 8, about 8 s to go"]


def test_what_is_soon_done_says_nothing(clock):
    lines = []
    count = progress.counted(lines.append, "packed")
    for done in range(100):
        clock[0] += 0.09
        count(done, 100)
    assert not lines
