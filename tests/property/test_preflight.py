"""Whatever a run takes and gives back, what is counted for it lies between the most it holds and all it ever takes."""

from hypothesis import given
from hypothesis import strategies as st

from fieldtune.preflight.sessions.arena import Arena, pattern_bytes
from fieldtune.preflight.sessions.buffers import BufferEvent

GRAIN = 256


@st.composite
def runs(draw):
    """Buffers of multiples of 256 bytes, taken one after another, each given back at some later moment."""
    sizes = draw(st.lists(st.integers(1, 64), min_size=1, max_size=30))
    events, held = [], []
    for number, size in enumerate(sizes):
        event = BufferEvent(buffer=f"b{number}", size_bytes=size * GRAIN, taken=True, planned=True)
        events.append(event)
        held.append(event)
        events += [
            _given(held.pop(draw(st.integers(0, len(held) - 1)))) for _ in range(draw(st.integers(0, len(held))))
        ]
    return (*events, *map(_given, held))


def _given(event):
    return BufferEvent(buffer=event.buffer, size_bytes=event.size_bytes, taken=False, planned=True)


def _bounds(events):
    held = most = taken = 0
    for event in events:
        held += event.size_bytes if event.taken else -event.size_bytes
        most = max(most, held)
        taken += event.size_bytes if event.taken else 0
    return most, taken


@given(runs(), st.sampled_from(["as-requested", "power-of-two"]))
def test_an_arena_writes_what_is_held_and_no_more_than_is_taken(events, extend):
    most, taken = _bounds(events)
    arena = Arena(extend)
    arena.run(events)
    assert most <= arena.written_bytes <= taken


@given(runs(), st.sampled_from(["as-requested", "power-of-two"]))
def test_what_was_given_back_serves_a_buffer_that_fits(events, extend):
    """After a run everything is free again: a buffer as large as one of its own takes nothing more."""
    arena = Arena(extend)
    arena.run(events)
    before = arena.written_bytes
    largest = max(events, key=lambda event: event.size_bytes)
    arena.run((BufferEvent(buffer="again", size_bytes=largest.size_bytes, taken=True, planned=True),))
    assert arena.written_bytes == before


@given(runs())
def test_a_pattern_is_as_large_as_what_is_held_and_no_larger_than_what_is_taken(events):
    most, taken = _bounds(events)
    assert most <= pattern_bytes(events) <= taken
