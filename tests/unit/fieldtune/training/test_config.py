import dataclasses
import math

import pytest

from fieldtune.training.config import TrainConfig


@pytest.mark.parametrize(
    "name", ["epochs", "max_steps", "batch_size", "gradient_accumulation", "max_length", "evaluate_every"]
)
def test_counts_are_at_least_1(name):
    with pytest.raises(ValueError, match=f"{name} is 0; expected at least 1"):
        TrainConfig(**{name: 0})
    assert getattr(TrainConfig(**{name: 1}), name) == 1


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "momentum", "max_grad_norm"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_numbers_are_finite_and_not_negative(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; expected a number of at least 0"):
        TrainConfig(**{name: value})


def test_steps_of_the_warm_up_take_the_place_of_its_ratio():
    assert TrainConfig(warmup_ratio=0.1).warmup().count(100) == 10
    assert TrainConfig(warmup_ratio=0.1, warmup_steps=7).warmup().count(100) == 7
    assert TrainConfig(warmup_steps=0).warmup().count(100) == 0
    with pytest.raises(ValueError, match=r"ratio is 1\.5"):
        TrainConfig(warmup_ratio=1.5)


def test_every_field_has_help():
    """The command line shows the string below each field; tyro finds it in the source."""
    import inspect

    source = inspect.getsource(TrainConfig)
    for field in dataclasses.fields(TrainConfig):
        after = source.split(f"    {field.name}: ", 1)[1].split("\n", 2)[1]
        assert after.strip().startswith('"""'), field.name
