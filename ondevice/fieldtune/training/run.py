"""The steps of one run: microbatches summed, divided once and applied, with evaluations in between."""

import dataclasses
import math
import time

import numpy as np

from fieldtune.adapters.adapter import Adapter, adapter_labels
from fieldtune.adapters.arrays import from_theta
from fieldtune.bundle.layout import FloatArray
from fieldtune.bundle.opening import Bundle
from fieldtune.data.batches import labelled_count
from fieldtune.data.examples import Encoded, EncodedSet
from fieldtune.training.backends.interface import TrainingBackend
from fieldtune.training.batch_source import BatchSource
from fieldtune.training.config import TrainConfig
from fieldtune.training.evaluation import evaluate_with
from fieldtune.training.events import Evaluating, Progress
from fieldtune.training.history import History, Snapshot
from fieldtune.training.plan import PlannedStep, count_steps, plan_steps
from fieldtune.training.report import StepRecord, Stopped
from fieldtune.training.schedules import learning_rate


class _Diverged(Exception):
    """What is no longer a number, in words."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Why a run ended, the theta that comes out of it, and, if it diverged, what did, in words."""

    stopped: Stopped
    kept: Snapshot
    fault: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """All that the steps of one run share.

    Attributes:
        bundle: the bundle.
        config: a settled one.
        start: the adapter that training starts from.
        train_set: what is learned.
        held_out: what is evaluated on, if anything.
        source: makes the batches.
        backend: holds theta.
        progress: is told what happens.
        history: grows as the run goes on.
    """

    bundle: Bundle
    config: TrainConfig
    start: Adapter
    train_set: EncodedSet
    held_out: EncodedSet | None
    source: BatchSource
    backend: TrainingBackend
    progress: Progress
    history: History

    @property
    def planned_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return count_steps(len(self.train_set.examples), self.config)

    def train(self) -> Outcome:
        """Take all steps, unless a KeyboardInterrupt or a fault ends the run."""
        history = self.history
        try:
            self._evaluate(0, 0.0)
            for step in plan_steps(self.train_set.lengths, self.config):
                self._timed(step)
                if self._is_due(step):
                    self._evaluate(step.number, step.epoch)
            _check_finite(self.backend.theta(), f"after step {history.last_step}")
        except KeyboardInterrupt:
            return Outcome(stopped="interrupted", kept=history.kept(self._newest()))
        except _Diverged as fault:
            return Outcome(stopped="diverged", kept=history.kept(history.good), fault=self._advice(str(fault)))
        return Outcome(stopped="completed", kept=history.kept(self._newest()))

    def adapter(self, snapshot: Snapshot) -> Adapter:
        """Return a snapshot as an adapter whose card says how it came about."""
        # Where activations are kept has no part in what comes out.
        names = [field.name for field in dataclasses.fields(self.config) if field.name != "cache"]
        asked = {name: getattr(self.config, name) for name in names}
        examples = len(self.train_set.examples)
        training = {**asked, "steps": snapshot.step, "examples": examples, "backend": self.backend.name}
        labels = adapter_labels(self.start, self.bundle.manifest)
        return from_theta(snapshot.theta, self.bundle.manifest, self.start, labels, training)

    def _timed(self, step: PlannedStep) -> None:
        """Take a step, and tell what its epoch took where it ends one."""
        started, before = time.perf_counter(), self.source.counts
        self._take(step)
        seconds = time.perf_counter() - started
        epoch = self.history.add_time(math.ceil(step.epoch), seconds, before, self.source.counts)
        if step.ends_epoch or step.number == self.planned_steps:
            self.progress(epoch)

    def _take(self, step: PlannedStep) -> None:
        started = time.perf_counter()
        theta = self.backend.theta()
        _check_finite(theta, f"before step {step.number}")
        loss, weight = self._accumulate(step)
        if not weight:
            self.history.skipped_steps += 1
            return
        if not math.isfinite(loss):
            raise _Diverged(f"the loss is {loss / weight} in step {step.number}")
        self.history.good = Snapshot(self.history.last_step, theta)
        rate = self._rate(step.number)
        norm = self.backend.update(rate)
        if not math.isfinite(norm):
            raise _Diverged(f"the norm of the gradient is {norm} in step {step.number}")
        self.history.training_seconds += time.perf_counter() - started
        record = StepRecord(
            step=step.number,
            epoch=step.epoch,
            loss=loss / weight,
            labels=int(weight),
            learning_rate=rate,
            gradient_norm=norm,
        )
        self.history.steps.append(record)
        self.progress(record)

    def _accumulate(self, step: PlannedStep) -> tuple[float, float]:
        """Run the microbatches of a step; return summed loss and weight.

        A microbatch without any label is left out: it would add nothing, and some graphs make 0 / 0 of it.
        """
        loss, weight = 0.0, 0.0
        for indices in step.microbatches:
            batch = self.source.batch("gradient", self.train_set, indices)
            if not labelled_count(batch):
                self.history.skipped_microbatches += 1
                continue
            sums = self.backend.accumulate(batch)
            loss, weight = loss + sums.loss, weight + sums.weight
            chosen = [self.train_set.examples[index] for index in indices]
            self.history.tokens += sum(len(example.input_ids) for example in chosen if isinstance(example, Encoded))
        return loss, weight

    def _rate(self, step: int) -> float:
        return learning_rate(
            step - 1,
            total_steps=self.planned_steps,
            peak=self.config.learning_rate,
            schedule=self.config.schedule,
            warmup_steps=self.config.warmup().count(self.planned_steps),
        )

    def _is_due(self, step: PlannedStep) -> bool:
        every = self.config.evaluate_every
        due = step.ends_epoch if isinstance(every, str) else step.number % every == 0
        return due or step.number == self.planned_steps

    def _evaluate(self, step: int, epoch: float) -> None:
        if self.held_out is None:
            return
        snapshot = Snapshot(step, self.backend.theta())
        _check_finite(snapshot.theta, f"after step {step}")
        found = evaluate_with(
            self.backend.evaluate,
            self.held_out,
            self.bundle.manifest,
            self.source,
            self.config.batch_size or 1,
            lambda done, total: self.progress(Evaluating(done=done, total=total)),
        )
        if not math.isfinite(found.loss):
            raise _Diverged(f"the loss on the held-out examples is {found.loss} after step {step}")
        self.history.good = snapshot
        self.progress(self.history.add_evaluation(found, snapshot, epoch))

    def _newest(self) -> Snapshot:
        theta = self.backend.theta()
        # An interrupt may come between a step that overflowed and the check that would have found it.
        return Snapshot(self.history.last_step, theta) if np.isfinite(theta).all() else self.history.good

    def _advice(self, fault: str) -> str:
        history = self.history
        kept = history.kept(history.good)
        message = f"{fault}; the adapter is kept as it was after step {kept.step}"
        if history.best and history.best.step != kept.step:
            message += (
                f", though after step {history.best.step} its held-out loss was lowest ({history.best.loss:.4f}): "
                "keep 'best' would keep that one"
            )
        return f"{message}; train again with a learning rate below {self.config.learning_rate:g}"


def _check_finite(theta: FloatArray, when: str) -> None:
    if not np.isfinite(theta).all():
        raise _Diverged(f"the adapter holds values that are not numbers {when}")
