"""Signals during a command, and as they were before and after it."""

import signal
import threading

import pytest

from fieldtune.cli.shared.signals import terminating_as_interrupt, undisturbed


@pytest.fixture(autouse=True)
def handlers():
    """As they were before, whatever a test does."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield before
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_terminated_command_ends_as_an_interrupted_one(handlers):
    with terminating_as_interrupt():
        assert signal.getsignal(signal.SIGTERM) != handlers[signal.SIGTERM]
    with pytest.raises(KeyboardInterrupt), terminating_as_interrupt():
        signal.raise_signal(signal.SIGTERM)


def test_what_must_not_be_cut_short_is_not():
    with terminating_as_interrupt(), undisturbed():
        assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)


def test_a_command_in_another_thread_leaves_signals_alone(handlers):
    seen = []

    def run():
        with terminating_as_interrupt(), undisturbed():
            seen.append({number: signal.getsignal(number) for number in handlers})

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [handlers]
