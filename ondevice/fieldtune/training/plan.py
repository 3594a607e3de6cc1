"""What is known before the first step: sizes settled from config, profile and bundle, and the batches of every step."""

import dataclasses
import itertools
import math
from collections.abc import Iterator

from fieldtune.bundle import Manifest
from fieldtune.data import IntArray, batch_limit, length_limit, plan_epoch
from fieldtune.hardware import HardwareProfile
from fieldtune.training.config import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStep:
    """One optimizer step.

    Attributes:
        number: from 1.
        epoch: how much of all epochs is done after it: 1.5 is the middle of the second.
        microbatches: int64 indices of the examples of each.
        ends_epoch: whether it is the last of its epoch.
    """

    number: int
    epoch: float
    microbatches: tuple[IntArray, ...]
    ends_epoch: bool


def settle(config: TrainConfig, profile: HardwareProfile, manifest: Manifest) -> TrainConfig:
    """Return the config with batch size, accumulation, maximum length and backend filled in.

    Raises:
        ValueError: a batch or a length that a static graph cannot take.
    """
    inputs = manifest.graphs["gradient"].inputs
    return dataclasses.replace(
        config,
        batch_size=batch_limit(config.batch_size, profile, inputs),
        gradient_accumulation=config.gradient_accumulation or profile.training.gradient_accumulation,
        max_length=length_limit(config.max_length, profile, inputs, manifest.text),
        backend=config.backend or profile.training.backend,
    )


def count_steps(examples: int, config: TrainConfig) -> int:
    """Return the optimizer steps of a whole run with a settled config."""
    steps = config.epochs * _steps_per_epoch(examples, config)
    return steps if config.max_steps is None else min(steps, config.max_steps)


def plan_steps(lengths: IntArray, config: TrainConfig) -> Iterator[PlannedStep]:
    """Yield the steps of a whole run; equal seeds give equal ones.

    Args:
        lengths: tokens of each example (1 for images), int64, shape (examples,).
        config: a settled one.
    """
    assert config.batch_size is not None
    assert config.gradient_accumulation is not None
    per_epoch = _steps_per_epoch(len(lengths), config)
    total, number = count_steps(len(lengths), config), 0
    for epoch in range(config.epochs):
        batches = iter(
            plan_epoch(lengths, config.batch_size, config.seed, epoch, group_by_length=config.group_by_length)
        )
        for index in range(1, per_epoch + 1):
            if number == total:
                return
            number += 1
            yield PlannedStep(
                number=number,
                epoch=epoch + index / per_epoch,
                microbatches=tuple(itertools.islice(batches, config.gradient_accumulation)),
                ends_epoch=index == per_epoch,
            )


def _steps_per_epoch(examples: int, config: TrainConfig) -> int:
    assert config.batch_size is not None
    assert config.gradient_accumulation is not None
    return math.ceil(math.ceil(examples / config.batch_size) / config.gradient_accumulation)
