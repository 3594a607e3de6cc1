import numpy as np
import pytest

from fieldtune.training.batch_source import Counts
from fieldtune.training.config import TrainConfig
from fieldtune.training.history import History, Snapshot
from fieldtune.training.records import StepRecord


def _theta(value):
    return np.full(3, value, np.float32)


@pytest.mark.parametrize(("keep", "step"), [("last", 30), ("best", 20)])
def test_the_best_is_the_first_of_the_lowest_loss(keep, step, evaluation):
    history = History(config=TrainConfig(keep=keep), good=Snapshot(0, _theta(0)))
    for number, loss in ((10, 0.5), (20, 0.3), (25, 0.3), (30, 0.4)):
        history.add_evaluation(evaluation(loss, 0.5), Snapshot(number, _theta(number)), number / 10)
    kept = history.kept(Snapshot(30, _theta(30)))
    assert kept.step == step
    assert kept.theta[0] == step
    assert [record.step for record in history.evaluations] == [10, 20, 25, 30]


@pytest.mark.parametrize("emulated", [False, True])
def test_an_epochs_record_says_whether_its_prefix_is_emulated(emulated):
    history = History(config=TrainConfig(), good=Snapshot(0, _theta(0)))
    counts = [Counts(4 * step, step, 0.25 * step, emulated=emulated) for step in range(4)]
    for step, epoch in enumerate((1, 1, 2)):
        history.add_time(epoch, 1.0, counts[step], counts[step + 1])
    first, second = history.epochs
    assert (first.steps, first.seconds, first.prefix_seconds, first.cached, first.computed) == (2, 2.0, 0.5, 8, 2)
    assert (first.prefix_emulated, second.prefix_emulated) == (emulated, emulated)


def test_without_an_evaluation_the_last_is_kept():
    history = History(config=TrainConfig(keep="best"), good=Snapshot(0, _theta(0)))
    assert history.last_step == 0
    history.steps.append(StepRecord(step=3, epoch=1, loss=1, labels=1, learning_rate=1, gradient_norm=1))
    assert history.last_step == 3
    assert history.kept(Snapshot(3, _theta(1))).step == 3


def test_a_copy_does_not_grow(evaluation):
    history = History(config=TrainConfig(), good=Snapshot(0, _theta(0)))
    history.add_time(1, 1.0, Counts(0, 0, 0.0, emulated=False), Counts(1, 1, 0.5, emulated=False))
    copy = history.copy()
    history.steps.append(StepRecord(step=1, epoch=1, loss=1, labels=1, learning_rate=1, gradient_norm=1))
    history.add_time(1, 1.0, Counts(1, 1, 0.5, emulated=False), Counts(2, 2, 1.0, emulated=False))
    history.add_evaluation(evaluation(0.3, 0.5), Snapshot(1, _theta(1)), 0.1)
    assert (copy.steps, copy.evaluations, copy.best) == ([], [], None)
    assert [(record.steps, record.seconds) for record in copy.epochs] == [(1, 1.0)]
    assert history.epochs[0].steps == 2
