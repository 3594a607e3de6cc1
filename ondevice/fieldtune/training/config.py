"""TrainConfig: how an adapter is trained. Every default is here and nowhere else; its docs are the command line's."""

import dataclasses
import math
from typing import Literal

from fieldtune.activations import CacheSettings
from fieldtune.hardware import Backend
from fieldtune.training.schedules import Schedule, Warmup, learning_rate


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How an adapter is trained.

    Raises:
        ValueError: a number that is out of its range.
    """

    epochs: int = 3
    """How often every example is seen."""

    max_steps: int | None = None
    """Stop after so many optimizer steps, even within an epoch."""

    batch_size: int | None = None
    """Examples that go through the graph together; if not given, the profile's."""

    gradient_accumulation: int | None = None
    """Batches that make up one optimizer step; if not given, the profile's."""

    max_length: int | None = None
    """Tokens that longer texts are cut to; if not given, the profile's or the model's limit."""

    strict: bool = False
    """Refuse texts that are too long instead of cutting them."""

    learning_rate: float = 1e-3
    """Peak of the learning rate."""

    schedule: Schedule = "linear"
    """How the learning rate falls after the warm-up."""

    warmup_ratio: float = 0.06
    """Part of all steps in which the learning rate rises from 0."""

    warmup_steps: int | None = None
    """Steps of the warm-up, in place of its ratio."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    """What turns gradients into updates."""

    weight_decay: float = 0.01
    """How strongly weights are pulled to 0; biases and norms are exempt."""

    backend: Backend | None = None
    """What trains: portable (stock ONNX Runtime), ort-training (its official training API), or auto; if not given, the
    profile's."""

    momentum: float = 0.9
    """Part of the last update that stays in the next; of sgd only."""

    max_grad_norm: float = 1.0
    """Longest gradient, in Euclidean norm; longer ones are scaled down. 0 switches that off."""

    seed: int = 0
    """Decides the order of the examples."""

    group_by_length: bool = True
    """Put examples of like length into one batch, so that less is padded."""

    evaluate_every: int | Literal["epoch"] = "epoch"
    """How often to evaluate between start and end: after each epoch, or after so many steps."""

    keep: Literal["last", "best"] = "last"
    """Which adapter comes out: the last, or the one of the lowest loss in an evaluation."""

    cache: CacheSettings = dataclasses.field(default_factory=CacheSettings)
    """Of the activations of a split bundle; results do not depend on it."""

    def __post_init__(self) -> None:
        for name in ("epochs", "max_steps", "batch_size", "gradient_accumulation", "max_length", "evaluate_every"):
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        for name in ("learning_rate", "weight_decay", "momentum", "max_grad_norm", "seed"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; expected a number of at least 0")
        self.warmup()

    def warmup(self) -> Warmup:
        """Return the warm-up that ratio and steps describe.

        Raises:
            ValueError: a ratio outside 0 to 1, or negative steps.
        """
        return Warmup(ratio=self.warmup_ratio) if self.warmup_steps is None else Warmup(steps=self.warmup_steps)

    def rate(self, step: int, total_steps: int) -> float:
        """Return the learning rate of an optimizer step, which counts from 0, in a run of so many."""
        return learning_rate(
            step,
            total_steps=total_steps,
            peak=self.learning_rate,
            schedule=self.schedule,
            warmup_steps=self.warmup().count(total_steps),
        )
