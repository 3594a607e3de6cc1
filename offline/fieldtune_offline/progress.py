"""What a command says while it works: a line for each stage, and how far a long one has got."""

import time
from collections.abc import Callable
from typing import TypeAlias

Report: TypeAlias = Callable[[str], None]
"""Is told, in a line, what begins and may take minutes."""
Count: TypeAlias = Callable[[int, int], None]
"""Is told how many of how many things are done, before each of them."""

_EVERY_S = 10.0


def counted(report: Report, what: str) -> Count:
    """Return what reports how many of some things are done and how long the others may take, now and then."""
    started = last = time.monotonic()

    def count(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done and now - last >= _EVERY_S:
            last = now
            report(f"{what}: {done} of {total}, about {(now - started) / done * (total - done):.0f} s to go")

    return count
