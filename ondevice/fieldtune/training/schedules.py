"""Learning-rate schedules as a pure function of the step, with the definitions of transformers.get_scheduler."""

import dataclasses
import math
from typing import Literal, TypeAlias

Schedule: TypeAlias = Literal["linear", "cosine", "constant"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Warmup:
    """How long the learning rate rises from 0 to its peak.

    Attributes:
        ratio: part of all steps, from 0 to 1; rounded up to whole steps.
        steps: number of steps; where it is not 0, ``ratio`` must be.
    """

    ratio: float = 0.0
    steps: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"the warm-up's ratio is {self.ratio}; expected from 0 to 1")
        if self.steps < 0:
            raise ValueError(f"the warm-up's steps are {self.steps}; expected at least 0")
        if self.ratio and self.steps:
            raise ValueError(
                f"the warm-up is given as ratio {self.ratio} and as {self.steps} steps; expected one of them"
            )

    def count(self, total_steps: int) -> int:
        """Return the warm-up's steps in a run of so many steps, as transformers.TrainingArguments counts them."""
        return self.steps or math.ceil(total_steps * self.ratio)


def learning_rate(step: int, *, total_steps: int, peak: float, schedule: Schedule, warmup_steps: int) -> float:
    """Return the learning rate of one optimizer step.

    During warm-up it is peak · step / warmup_steps. After it, with p the part of the other steps that is done:
    ``linear`` is peak · (1 - p), ``cosine`` is peak · (1 + cos(π p)) / 2, ``constant`` is peak. Past the last step
    the falling ones stay at 0, where transformers' cosine would rise again.

    Args:
        step: from 0, so that the first step of a warm-up changes nothing, as in transformers.
        total_steps: optimizer steps of the whole run, warm-up included.
        peak: the highest rate.
        schedule: how it falls after the warm-up.
        warmup_steps: how long it rises.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    if schedule == "constant":
        return peak
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    if schedule == "linear":
        return peak * (1.0 - done)
    if schedule == "cosine":
        return peak * 0.5 * (1.0 + math.cos(math.pi * done))
    raise ValueError(f"the schedule is {schedule!r}; expected linear, cosine or constant")
