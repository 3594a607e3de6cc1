"""What a run has done so far, and which of its thetas is to be kept."""

import dataclasses
import math

from fieldtune.bundle import FloatArray
from fieldtune.training.batch_source import Counts
from fieldtune.training.config import TrainConfig
from fieldtune.training.evaluation import Evaluation
from fieldtune.training.records import EpochRecord, EvaluationRecord, StepRecord


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """theta (float32, shape ``(size,)``) after so many steps, and its evaluation loss, where it has one."""

    step: int
    theta: FloatArray
    loss: float = math.inf


@dataclasses.dataclass(slots=True)
class History:
    """The record of a run; it grows as the run goes on.

    Attributes:
        config: of the run.
        good: the newest theta of which a finite loss is known; before the first step, the one that training starts
            from.
        best: of the lowest evaluation loss, where there was an evaluation.
    """

    config: TrainConfig
    good: Snapshot
    best: Snapshot | None = None
    steps: list[StepRecord] = dataclasses.field(default_factory=list)
    epochs: list[EpochRecord] = dataclasses.field(default_factory=list)
    evaluations: list[EvaluationRecord] = dataclasses.field(default_factory=list)
    skipped_steps: int = 0
    skipped_microbatches: int = 0
    tokens: int = 0
    training_seconds: float = 0.0

    @property
    def last_step(self) -> int:
        """Number of the newest step that was taken; 0 before the first."""
        return self.steps[-1].step if self.steps else 0

    def copy(self) -> "History":
        """Return one that does not grow when this one does."""
        return dataclasses.replace(
            self, steps=list(self.steps), epochs=list(self.epochs), evaluations=list(self.evaluations)
        )

    def add_time(self, epoch: int, seconds: float, before: Counts, after: Counts) -> EpochRecord:
        """Add what a step took to its epoch's record, and return that."""
        if not self.epochs or self.epochs[-1].epoch != epoch:
            emulated = after.emulated
            new = EpochRecord(
                epoch=epoch, steps=0, seconds=0.0, prefix_seconds=0.0, prefix_emulated=emulated, cached=0, computed=0
            )
            self.epochs.append(new)
        record = self.epochs[-1]
        self.epochs[-1] = dataclasses.replace(
            record,
            steps=record.steps + 1,
            seconds=record.seconds + seconds,
            prefix_seconds=record.prefix_seconds + after.prefix_seconds - before.prefix_seconds,
            cached=record.cached + after.hits - before.hits,
            computed=record.computed + after.misses - before.misses,
        )
        return self.epochs[-1]

    def add_evaluation(self, evaluation: Evaluation, snapshot: Snapshot, epoch: float) -> EvaluationRecord:
        """Record the evaluation of a snapshot, and keep the snapshot if it is the best so far."""
        record = EvaluationRecord(step=snapshot.step, epoch=epoch, evaluation=evaluation)
        self.evaluations.append(record)
        if evaluation.loss < (self.best.loss if self.best else math.inf):
            self.best = dataclasses.replace(snapshot, loss=evaluation.loss)
        return record

    def kept(self, last: Snapshot) -> Snapshot:
        """Return what is to come out of the run whose last sound theta is given."""
        return self.best if self.config.keep == "best" and self.best else last
