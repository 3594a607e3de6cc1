"""What a run tells while it goes on, and records: how it starts, its steps, epochs and evaluations."""

import dataclasses
from collections.abc import Callable
from typing import Literal, TypeAlias

from fieldtune.data import EncodedSet
from fieldtune.placement import PlacementReport
from fieldtune.runtime import ProviderChoice
from fieldtune.training.backends import BackendChoice
from fieldtune.training.batch_source import SplitReport
from fieldtune.training.evaluation import Evaluation

Stopped: TypeAlias = Literal["completed", "interrupted", "diverged"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DataCounts:
    """What the examples were: how many, how many of them were cut, and how many others the cut left nothing of.

    ``notes`` are lines for people about what else was done to them.
    """

    examples: int
    truncated: int
    dropped: int
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, encoded: EncodedSet) -> "DataCounts":
        """Return the counts of encoded examples."""
        counts = {"truncated": encoded.truncated, "dropped": encoded.dropped}
        return cls(examples=len(encoded.examples), notes=encoded.notes, **counts)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """The graphs are open; the first evaluation or step comes next.

    Attributes:
        profile: name of the hardware profile.
        provider: the execution provider and why it was chosen.
        backend: what computes the gradients, and why that.
        placement: where the gradient graph runs, as it was read back; None on the CPU.
        split: how the frozen prefix is run; None where the whole graphs are.
        planned_steps: optimizer steps of the whole run.
        train_data: the examples.
        evaluation_data: the examples held out, if there are any.
    """

    profile: str
    provider: ProviderChoice
    backend: BackendChoice
    placement: PlacementReport | None
    split: SplitReport | None
    planned_steps: int
    train_data: DataCounts
    evaluation_data: DataCounts | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord:
    """One optimizer step.

    Attributes:
        step: from 1.
        epoch: how much of all epochs is done after it.
        loss: mean over the labels of its microbatches, before the update.
        labels: how many those are.
        learning_rate: of its update.
        gradient_norm: Euclidean, of the mean gradient before clipping.
    """

    step: int
    epoch: float
    loss: float
    labels: int
    learning_rate: float
    gradient_norm: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EpochRecord:
    """The steps of one epoch, without evaluations; the last one may have been cut short.

    Attributes:
        epoch: from 1.
        steps: that were taken.
        seconds: wall-clock time of its steps.
        prefix_seconds: how much of it the frozen prefix of a split bundle took.
        prefix_emulated: whether that is the time of an emulation, which says nothing about the accelerator.
        cached: samples whose boundary activations were in the cache; 0 where the bundle is not split.
        computed: samples whose boundary activations the prefix computed.
    """

    epoch: int
    steps: int
    seconds: float
    prefix_seconds: float
    prefix_emulated: bool
    cached: int
    computed: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRecord:
    """An evaluation, and after how many steps and epochs it was made."""

    step: int
    epoch: float
    evaluation: Evaluation


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Evaluating:
    """So many batches of an evaluation are done."""

    done: int
    total: int


Event: TypeAlias = Started | StepRecord | EpochRecord | Evaluating | EvaluationRecord
Progress: TypeAlias = Callable[[Event], None]
