"""A run step by step: stopped, snapshotted, and gone on with in another run, to the same bits."""

import copy
import dataclasses

import numpy as np
import pytest

pytest.importorskip("tokenizers")

from fieldtune.adapters.arrays import to_theta
from fieldtune.errors import CheckpointError
from fieldtune.training import TrainConfig, train_adapter
from fieldtune.training.opening import open_run
from fieldtune.training.records import StepRecord

NAMES = ("tiny-classifier", "split-classifier", "tiny-lm")
CONFIG = TrainConfig(epochs=2, batch_size=4, gradient_accumulation=1, learning_rate=5e-3, evaluate_every=2)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDTUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def sets(encoded, reviews, dialogues):
    """The function from a bundle's name to examples to learn, of 5 batches, and others to evaluate on."""

    def make(name):
        rows = dialogues(26) if name == "tiny-lm" else [*reviews(20), *reviews(6, seed=1)]
        limit = 16 if name == "split-classifier" else None
        return encoded(name, rows[:20], max_length=limit), encoded(name, rows[20:], max_length=limit)

    return make


@pytest.fixture
def opening(opened, sets, profile):
    """The function that opens a run of a bundle, by name, with CONFIG and changes to it."""

    def make(name, *, progress=lambda _: None, **changes):
        examples, held_out = sets(name)
        config = dataclasses.replace(CONFIG, **changes)
        return open_run(opened(name), examples, config, profile, evaluation=held_out, progress=progress)

    return make


@pytest.fixture
def whole(opened, sets, profile):
    """The function that trains a bundle, by name, in one go, with CONFIG and changes to it."""

    def run(name, **changes):
        examples, held_out = sets(name)
        config = dataclasses.replace(CONFIG, **changes)
        return train_adapter(opened(name), examples, config, profile, evaluation=held_out)

    return run


def outcome(report, bundle):
    """All that a run computed, to the bit."""
    evaluations = [dataclasses.replace(record.evaluation, seconds=0) for record in report.evaluations]
    return {
        "steps": report.steps,
        "evaluated": [record.step for record in report.evaluations],
        "evaluations": evaluations,
        "epochs": [(epoch.epoch, epoch.steps) for epoch in report.epochs],
        "kept": (report.stopped, report.kept_step, to_theta(report.adapter, bundle.manifest).tobytes()),
        "counts": (report.tokens, report.skipped_steps, report.skipped_microbatches),
    }


def taken(opened_run, count):
    """Take so many steps; return what is told of each."""
    assert [opened_run.step() for _ in range(count)] == [True] * count


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_at_a_time_is_the_whole_run_bit_for_bit(name, optimizer, opening, whole, opened):
    told = []
    with opening(name, optimizer=optimizer, progress=told.append) as run:
        count = 0
        while run.step():
            count += 1
            assert [event.step for event in told if isinstance(event, StepRecord)] == list(range(1, count + 1))
        assert count == run.run.planned_steps == 10
        assert run.run.outcome.stopped == "completed"
        assert not run.step(), "nothing happens after the end"
        report = run.report()
    expected = whole(name, optimizer=optimizer)
    assert outcome(report, opened(name)) == outcome(expected, opened(name))
    assert [record.step for record in report.evaluations] == [0, 2, 4, 6, 8, 10]
    assert report.after.loss != report.before.loss


def test_the_start_is_evaluated_before_the_first_step(opening):
    with opening("tiny-classifier") as run:
        assert run.run.history.evaluations == []
        taken(run, 1)
        assert [record.step for record in run.run.history.evaluations] == [0]
        taken(run, 1)
        assert [record.step for record in run.run.history.evaluations] == [0, 2]


def test_a_run_that_is_stopped_keeps_the_work_so_far(opening, whole, opened):
    bundle = opened("tiny-classifier")
    with opening("tiny-classifier", schedule="constant", warmup_steps=1) as run:
        taken(run, 5)
        stopped = run.stop()
        assert (stopped.stopped, stopped.kept.step, stopped.fault) == ("interrupted", 5, None)
        assert run.stop() is stopped
        assert not run.step()
        report = run.report()
    assert (report.stopped, report.kept_step, len(report.steps), report.planned_steps) == ("interrupted", 5, 5, 10)
    five = whole("tiny-classifier", schedule="constant", warmup_steps=1, max_steps=5)
    assert report.steps == tuple(
        dataclasses.replace(step, epoch=done.epoch) for step, done in zip(five.steps, report.steps, strict=True)
    )
    np.testing.assert_array_equal(to_theta(report.adapter, bundle.manifest), to_theta(five.adapter, bundle.manifest))


def test_a_report_stops_what_has_not_ended(opening):
    with opening("tiny-classifier") as run:
        taken(run, 3)
        assert (run.report().stopped, run.report().kept_step) == ("interrupted", 3)


def test_a_run_that_takes_all_steps_that_are_left_goes_on_where_it_was(opening, whole, opened):
    with opening("tiny-classifier") as run:
        taken(run, 4)
        assert run.train().stopped == "completed"
        report = run.report()
    bundle = opened("tiny-classifier")
    assert outcome(report, bundle) == outcome(whole("tiny-classifier"), bundle)


@pytest.mark.parametrize("after", [0, 1, 4, 5, 10])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("name", NAMES)
def test_another_run_goes_on_from_a_snapshot_bit_for_bit(name, optimizer, after, opening, whole, opened):
    with opening(name, optimizer=optimizer) as first:
        taken(first, after)
        state = first.snapshot()
    assert state.planned == after
    with opening(name, optimizer=optimizer) as second:
        second.restore(state)
        assert second.train().stopped == "completed"
        report = second.report()
    expected = whole(name, optimizer=optimizer)
    assert outcome(report, opened(name)) == outcome(expected, opened(name))


def test_what_a_run_has_done_is_forgotten_when_another_s_state_is_restored(opening, whole, opened):
    bundle = opened("tiny-classifier")
    with opening("tiny-classifier") as run:
        taken(run, 3)
        state = run.snapshot()
        run.train()
        assert run.run.outcome.stopped == "completed"
        for _ in range(2):
            run.restore(state)
            assert run.run.outcome is None
            assert len(run.run.history.steps) == 3
            run.train()
        report = run.report()
    assert outcome(report, bundle) == outcome(whole("tiny-classifier"), bundle)


def test_the_best_adapter_before_a_snapshot_is_kept_after_it(opening, whole, opened):
    settings = {"keep": "best", "learning_rate": 0.1, "optimizer": "sgd", "schedule": "constant"}
    expected, bundle = whole("tiny-classifier", **settings), opened("tiny-classifier")
    after = expected.kept_step + 1
    assert after < 10, "there has to be something behind the best"
    with opening("tiny-classifier", **settings) as first:
        taken(first, after)
        state = first.snapshot()
    with opening("tiny-classifier", **settings) as second:
        second.restore(state)
        second.train()
        report = second.report()
    assert outcome(report, bundle) == outcome(expected, bundle)


def test_steps_that_are_skipped_are_behind_a_snapshot(opened, encoded, reviews, profile):
    bundle, rows = opened("tiny-classifier"), reviews(8)
    examples = encoded("tiny-classifier", rows[:3] + [{**row, "label": None} for row in rows[3:]])
    config = dataclasses.replace(CONFIG, batch_size=1)
    expected = train_adapter(bundle, examples, config, profile)
    assert expected.skipped_steps == 2 * 5
    for after in (1, 6, 9, 16):
        with open_run(bundle, examples, config, profile) as first:
            taken(first, after)
            state = first.snapshot()
        assert state.planned == after
        assert len(state.history.steps) + state.history.skipped_steps == after
        with open_run(bundle, examples, config, profile) as second:
            second.restore(state)
            second.train()
            assert outcome(second.report(), bundle) == outcome(expected, bundle)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_snapshot_does_not_change_when_the_run_goes_on(optimizer, opening):
    with opening("tiny-classifier", optimizer=optimizer) as run:
        taken(run, 3)
        state = run.snapshot()
        before = copy.deepcopy(state)
        run.train()
    with opening("tiny-classifier", optimizer=optimizer) as other:
        other.restore(state)
        other.train()
    assert state.planned == before.planned == 3
    np.testing.assert_array_equal(state.theta, before.theta)
    assert state.optimizer.keys() == before.optimizer.keys()
    for key, array in before.optimizer.items():
        np.testing.assert_array_equal(state.optimizer[key], array)
    for field in dataclasses.fields(before.history):
        if field.name not in ("good", "best"):
            assert getattr(state.history, field.name) == getattr(before.history, field.name)
    for kept in ("good", "best"):
        mine, theirs = getattr(state.history, kept), getattr(before.history, kept)
        assert (mine.step, mine.loss, mine.theta.tobytes()) == (theirs.step, theirs.loss, theirs.theta.tobytes())


def test_the_state_of_another_optimizer_is_refused(opening):
    with opening("tiny-classifier", optimizer="sgd") as first:
        taken(first, 2)
        state = first.snapshot()
    with opening("tiny-classifier") as second, pytest.raises(CheckpointError):
        second.restore(state)
