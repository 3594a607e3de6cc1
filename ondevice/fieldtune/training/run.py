"""The steps of one run: microbatches summed, divided once and applied, with evaluations in between."""

import dataclasses
import itertools
import math
import time
from collections.abc import Iterator

import numpy as np

from fieldtune.adapters import Adapter, adapter_labels, from_theta
from fieldtune.bundle import Bundle, FloatArray
from fieldtune.data import EncodedSet
from fieldtune.tasks import Task
from fieldtune.training.backends import State, TrainingBackend
from fieldtune.training.batch_source import BatchSource
from fieldtune.training.config import TrainConfig
from fieldtune.training.evaluation import evaluate_with
from fieldtune.training.history import History, Snapshot
from fieldtune.training.plan import PlannedStep, count_steps, plan_steps
from fieldtune.training.records import Evaluating, Progress, StepRecord, Stopped


class _Diverged(Exception):
    """What is no longer a number, in words."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Why a run ended, the theta that comes out of it, and, if it diverged, what did, in words."""

    stopped: Stopped
    kept: Snapshot
    fault: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """All that a run needs to go on where it was: nothing of it changes when the run does.

    Attributes:
        planned: how many of the planned steps are behind it, those that were skipped included.
        theta: float32, shape ``(size,)``.
        optimizer: its state, as the backend gives it.
        history: what the run has done.
    """

    planned: int
    theta: FloatArray
    optimizer: State
    history: History


@dataclasses.dataclass(kw_only=True, slots=True)
class Run:
    """One run, which takes a step at a time.

    Attributes:
        bundle: the bundle.
        task: of the bundle.
        config: a settled one.
        start: the adapter that training starts from.
        train_set: what is learned.
        held_out: what is evaluated on, if anything.
        source: makes the batches.
        backend: holds theta.
        progress: is told what happens.
        history: grows as the run goes on.
        outcome: how it ended; None while it goes on.
    """

    bundle: Bundle
    task: Task
    config: TrainConfig
    start: Adapter
    train_set: EncodedSet
    held_out: EncodedSet | None
    source: BatchSource
    backend: TrainingBackend
    progress: Progress
    history: History = dataclasses.field(init=False)
    outcome: Outcome | None = None
    _planned: int = 0
    _steps: Iterator[PlannedStep] | None = None

    def __post_init__(self) -> None:
        self.history = History(config=self.config, good=Snapshot(0, self.backend.theta()))

    @property
    def planned_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return count_steps(len(self.train_set.examples), self.config)

    def step(self) -> bool:
        """Take the next step, with the evaluation that is due after it, and before the first one; tell of it.

        An exception, a KeyboardInterrupt among them, leaves the run with a whole theta: it can be stopped or restored.

        Returns:
            Whether there are more; if not, ``outcome`` says how the run ended.
        """
        if self.outcome is not None:
            return False
        try:
            if self._steps is None:
                self._begin()
            step = next(self._plan(), None)
            if step is not None:
                self._timed(step)
                self._planned += 1
                if self._is_due(step):
                    self._evaluate(step.number, step.epoch)
                return True
            _check_finite(self.backend.theta(), f"after step {self.history.last_step}")
        except _Diverged as fault:
            kept = self.history.kept(self.history.good)
            self.outcome = Outcome(stopped="diverged", kept=kept, fault=self._advice(str(fault)))
        else:
            self.outcome = Outcome(stopped="completed", kept=self.history.kept(self._newest()))
        return False

    def stop(self) -> Outcome:
        """End the run with the work so far, if it has not ended; return how it ended."""
        if self.outcome is None:
            self.outcome = Outcome(stopped="interrupted", kept=self.history.kept(self._newest()))
        return self.outcome

    def train(self) -> Outcome:
        """Take all steps that are left, unless a KeyboardInterrupt or a fault ends the run."""
        try:
            while self.step():
                pass
        except KeyboardInterrupt:
            return self.stop()
        return self.stop()

    def snapshot(self) -> RunState:
        """Return all that ``restore`` needs; best between two steps."""
        return RunState(
            planned=self._planned,
            theta=self.backend.theta(),
            optimizer=self.backend.state(),
            history=self.history.copy(),
        )

    def restore(self, state: RunState) -> None:
        """Go on from where a run of the same bundle, examples and config was; what this one has done is forgotten.

        Raises:
            CheckpointError: the optimizer's state is not this optimizer's; every fault is listed.
        """
        self.backend.load_state(state.optimizer)
        self.backend.load_theta(state.theta)
        self.history, self.outcome, self._planned = state.history.copy(), None, state.planned
        self._steps = None

    def adapter(self, snapshot: Snapshot) -> Adapter:
        """Return a snapshot as an adapter whose card says how it came about."""
        # Where activations are kept has no part in what comes out.
        names = [field.name for field in dataclasses.fields(self.config) if field.name != "cache"]
        asked = {name: getattr(self.config, name) for name in names}
        examples = len(self.train_set.examples)
        training = {**asked, "steps": snapshot.step, "examples": examples, "backend": self.backend.name}
        labels = adapter_labels(self.start, self.bundle.manifest)
        return from_theta(snapshot.theta, self.bundle.manifest, self.start, labels, training)

    def _begin(self) -> None:
        """Start the plan where the run is; before its first step the start is evaluated."""
        if not self._planned and not self.history.evaluations:
            self._evaluate(0, 0.0)
        self._steps = itertools.islice(plan_steps(self.train_set.lengths, self.config), self._planned, None)

    def _plan(self) -> Iterator[PlannedStep]:
        assert self._steps is not None
        return self._steps

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
        rate = self.config.rate(step.number - 1, self.planned_steps)
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
            expected = self.train_set.weight(indices)
            if not expected:
                self.history.skipped_microbatches += 1
                continue
            sums = self.backend.accumulate(self.source.batch("gradient", self.train_set, indices), expected)
            loss, weight = loss + sums.loss, weight + sums.weight
            if self.bundle.manifest.text is not None:
                self.history.tokens += sum(self.train_set.examples[index].length for index in indices)
        return loss, weight

    def _is_due(self, step: PlannedStep) -> bool:
        every = self.config.evaluate_every
        due = step.ends_epoch if isinstance(every, str) else step.number % every == 0
        return due or step.number == self.planned_steps

    def _evaluate(self, step: int, epoch: float) -> None:
        if self.held_out is None:
            return
        snapshot = Snapshot(step, self.backend.theta())
        _check_finite(snapshot.theta, f"after step {step}")
        evaluation = evaluate_with(
            self.backend.evaluate,
            self.held_out,
            self.task,
            self.source,
            self.config.batch_size or 1,
            lambda done, total: self.progress(Evaluating(done=done, total=total)),
        )
        if not math.isfinite(evaluation.loss):
            raise _Diverged(f"the loss on the held-out examples is {evaluation.loss} after step {step}")
        self.history.good = snapshot
        self.progress(self.history.add_evaluation(evaluation, snapshot, epoch))

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
