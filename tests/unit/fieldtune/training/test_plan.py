import numpy as np
import pytest

from builders import altered
from fieldtune.training.config import TrainConfig
from fieldtune.training.plan import count_steps, plan_steps, settle


def _config(**settings):
    return TrainConfig(**{"batch_size": 4, "gradient_accumulation": 2, "epochs": 3, **settings})


def test_steps_cover_every_example_once_an_epoch():
    config, lengths = _config(), np.arange(1, 22)
    steps = list(plan_steps(lengths, config))
    # 21 examples: 6 batches, 3 steps an epoch.
    assert len(steps) == count_steps(21, config) == 9
    assert [step.number for step in steps] == list(range(1, 10))
    assert [step.ends_epoch for step in steps] == [False, False, True] * 3
    assert steps[4].epoch == pytest.approx(5 / 3)
    for epoch in range(3):
        seen = np.concatenate([batch for step in steps[3 * epoch : 3 * epoch + 3] for batch in step.microbatches])
        assert sorted(seen.tolist()) == list(range(21))
    assert {len(batch) for step in steps for batch in step.microbatches} == {1, 4}


def test_the_last_step_of_an_epoch_may_have_fewer_microbatches():
    steps = list(plan_steps(np.ones(12, np.int64), _config(epochs=1)))
    assert [len(step.microbatches) for step in steps] == [2, 1]


def test_a_limit_of_steps_ends_the_run_within_an_epoch():
    config = _config(max_steps=4)
    assert count_steps(21, config) == 4
    steps = list(plan_steps(np.ones(21, np.int64), config))
    assert [step.number for step in steps] == [1, 2, 3, 4]
    assert not steps[-1].ends_epoch
    assert count_steps(21, _config(max_steps=100)) == 9


def test_epochs_and_seeds_have_orders_of_their_own():
    lengths = np.ones(40, np.int64)

    def order(config):
        return [batch.tolist() for step in plan_steps(lengths, config) for batch in step.microbatches]

    assert order(_config()) == order(_config())
    assert order(_config()) != order(_config(seed=1))
    assert order(_config())[:10] != order(_config())[10:20]


def test_what_the_config_leaves_open_is_the_profile_s_or_the_model_s(profile, manifest):
    small = altered(profile, training={"batch_size": 3, "gradient_accumulation": 5, "max_length": 32})
    settled = settle(TrainConfig(), small, manifest())
    assert (settled.batch_size, settled.gradient_accumulation, settled.max_length) == (3, 5, 32)
    assert settle(TrainConfig(), small, manifest(max_length=16)).max_length == 16
    assert settle(TrainConfig(), profile, manifest()).max_length == 64
    own = settle(TrainConfig(batch_size=7, gradient_accumulation=2, max_length=60), small, manifest())
    assert (own.batch_size, own.gradient_accumulation, own.max_length) == (7, 2, 60)


def test_a_static_graph_decides(profile, manifest):
    static = manifest(batch=4, sequence=16)
    settled = settle(TrainConfig(), profile, static)
    assert (settled.batch_size, settled.max_length) == (4, 16)
    assert settle(TrainConfig(batch_size=2), profile, static).batch_size == 2
    with pytest.raises(ValueError, match="batch_size is 5; the bundle's graphs are static and take at most 4"):
        settle(TrainConfig(batch_size=5), profile, static)
    with pytest.raises(ValueError, match="max_length is 17"):
        settle(TrainConfig(max_length=17), profile, static)
