"""From a bundle and examples to a run: opened, to be stepped, stopped, snapshotted and restored, or trained at once."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from fieldtune.adapters import Adapter, adapter_labels, read_adapter, to_theta
from fieldtune.bundle import Bundle, FloatArray
from fieldtune.data import EncodedSet, Example
from fieldtune.errors import AdapterMismatch, listed
from fieldtune.hardware import HardwareProfile, OnMissing, environment, features
from fieldtune.placement import choose_for
from fieldtune.runtime import ProviderChoice
from fieldtune.tasks import Task, open_task
from fieldtune.training.backends import AdamWConfig, OptimizerConfig, SGDConfig, choose_backend, open_backend
from fieldtune.training.batch_source import open_batches
from fieldtune.training.config import TrainConfig
from fieldtune.training.plan import settle
from fieldtune.training.records import DataCounts, Progress, Started
from fieldtune.training.report import RunDiverged, Subject, TrainReport
from fieldtune.training.run import Outcome, Run, RunState

Examples: TypeAlias = Sequence[Example] | EncodedSet


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OpenRun:
    """A run whose graphs are open.

    Attributes:
        run: the steps.
        started: what was chosen for it, and on what it runs.
        since: when it was opened, as ``time.perf_counter`` has it.
    """

    run: Run
    started: Started
    since: float

    def step(self) -> bool:
        """Take the next step; return whether there are more. See ``Run.step``."""
        return self.run.step()

    def stop(self) -> Outcome:
        """End the run with the work so far; return how it ended."""
        return self.run.stop()

    def train(self) -> Outcome:
        """Take all steps that are left; a KeyboardInterrupt ends the run with the work so far."""
        return self.run.train()

    def snapshot(self) -> RunState:
        """Return all that is needed to go on from here, in this run or in one that is opened alike."""
        return self.run.snapshot()

    def restore(self, state: RunState) -> None:
        """Go on from where a run that was opened alike had got. See ``Run.restore``."""
        self.run.restore(state)

    def report(self) -> TrainReport:
        """Return what the run did; one that has not ended is stopped."""
        return _report(self, self.run.stop())


@contextlib.contextmanager
def open_run(
    bundle: Bundle,
    examples: Examples,
    config: TrainConfig,
    profile: HardwareProfile,
    *,
    evaluation: Examples | None = None,
    start: Adapter | None = None,
    on_missing: OnMissing | None = None,
    choice: ProviderChoice | None = None,
    progress: Progress = lambda _: None,
) -> Iterator[OpenRun]:
    """Open a run, and close its graphs at the end of the block.

    Args:
        bundle: with a gradient graph; with examples to evaluate on, also an evaluation graph.
        examples: of the bundle's task, or what the task's ``encode`` made of them.
        config: how to train.
        profile: of the device.
        evaluation: held-out examples; they are evaluated before, in between and after.
        start: the adapter to continue, at the bundle's own rank and alpha; the bundle's initial one if None.
        on_missing: what to do where the profile's provider is not there; what the profile says if None.
        choice: the provider, where it has been chosen already; ``on_missing`` is of no meaning then.
        progress: is told what happens, as it happens.

    Raises:
        AdapterMismatch: ``start`` cannot be trained with this bundle; every mismatch is listed.
        InvalidData: no example has a label; or examples that cannot be encoded.
        BackendUnavailable: the backend that config or profile name cannot be used here.
        ProviderUnavailable: the profile's provider is not there.
        InvalidBundle: the bundle has no prefix for the profile's accelerator.
        PlacementRefused: the provider runs less of a graph than the profile demands.
        ValueError: sizes that the bundle's static graphs cannot take, or ``keep="best"`` without evaluation examples.
    """
    since = time.perf_counter()
    if config.keep == "best" and evaluation is None:
        raise ValueError("keep is 'best', which needs held-out examples to evaluate on")
    bundle.check_trainable()
    choice = choice or choose_for(bundle, profile, on_missing=on_missing)
    settled = settle(config, profile, bundle.manifest)
    start = start or read_adapter(bundle.adapter_path)
    theta = _starting_theta(start, bundle)
    optimizer, runtime, task = _optimizer(settled), features(), open_task(bundle)
    target = profile.accelerator.target if profile.accelerator else ""
    backend = choose_backend(settled.backend or "auto", runtime, choice, bundle, optimizer, target=target)
    whole = backend.name != "portable"
    with open_batches(bundle, profile, choice, settled.cache, whole=whole) as source:
        # Encoding may take minutes, and what is not compiled is told before.
        train_set = _encoded(task, settled, examples)
        held_out = _encoded(task, settled, evaluation) if evaluation is not None else None
        run = Run(
            bundle=bundle,
            task=task,
            config=settled,
            start=start,
            train_set=train_set,
            held_out=held_out,
            source=source,
            backend=open_backend(
                backend.name, bundle, source.choice, theta, optimizer, settled.max_grad_norm, source.graphs
            ),
            progress=progress,
        )
        started = Started(
            profile=profile.name,
            provider=choice,
            backend=backend,
            placement=run.backend.placement,
            split=source.split,
            planned_steps=run.planned_steps,
            train_data=DataCounts.of(train_set),
            evaluation_data=DataCounts.of(held_out) if held_out else None,
        )
        progress(started)
        yield OpenRun(run=run, started=started, since=since)


def train_adapter(
    bundle: Bundle,
    examples: Examples,
    config: TrainConfig,
    profile: HardwareProfile,
    *,
    evaluation: Examples | None = None,
    start: Adapter | None = None,
    on_missing: OnMissing | None = None,
    choice: ProviderChoice | None = None,
    progress: Progress = lambda _: None,
) -> TrainReport:
    """Train an adapter on examples.

    The same bundle, examples, config and start give the same losses, bit for bit, on one machine with one version of
    ONNX Runtime and one number of threads. A KeyboardInterrupt ends the run with the work so far
    (``stopped="interrupted"``).

    Args:
        bundle: as for ``open_run``, and so are the other arguments.
        examples: to learn from.
        config: how to train.
        profile: of the device.
        evaluation: held-out examples.
        start: the adapter to continue.
        on_missing: what to do where the profile's provider is not there.
        choice: the provider, where it has been chosen already.
        progress: is told what happens.

    Raises:
        RunDiverged: a TrainingDiverged; its report holds the last good adapter.
        FieldtuneError: whatever ``open_run`` raises.
        ValueError: as ``open_run``.
    """
    with open_run(
        bundle,
        examples,
        config,
        profile,
        evaluation=evaluation,
        start=start,
        on_missing=on_missing,
        choice=choice,
        progress=progress,
    ) as opened:
        outcome = opened.train()
        report = opened.report()
    if outcome.fault:
        raise RunDiverged(outcome.fault, report)
    return report


def _report(opened: OpenRun, outcome: Outcome) -> TrainReport:
    run = opened.run
    manifest, history = run.bundle.manifest, run.history
    started = opened.started
    return TrainReport(
        profile=started.profile,
        provider=started.provider,
        backend=started.backend,
        placement=started.placement,
        split=run.source.split,
        planned_steps=started.planned_steps,
        train_data=started.train_data,
        evaluation_data=started.evaluation_data,
        adapter=run.adapter(outcome.kept),
        kept_step=outcome.kept.step,
        stopped=outcome.stopped,
        subject=Subject.of(manifest, adapter_labels(run.start, manifest)),
        config=run.config,
        steps=tuple(history.steps),
        epochs=tuple(history.epochs),
        evaluations=tuple(history.evaluations),
        skipped_steps=history.skipped_steps,
        skipped_microbatches=history.skipped_microbatches,
        tokens=history.tokens,
        training_seconds=history.training_seconds,
        seconds=time.perf_counter() - opened.since,
        environment=environment(),
    )


def _starting_theta(start: Adapter, bundle: Bundle) -> FloatArray:
    theta = to_theta(start, bundle.manifest)
    faults = [
        f"{key}: holds a value that is not a finite number"
        for key, values in bundle.manifest.layout.views(theta).items()
        if not np.isfinite(values).all()
    ]
    if faults:
        raise AdapterMismatch(f"{start.where}: cannot be trained further; {len(faults)} tensor(s){listed(faults)}")
    return theta


def _encoded(task: Task, config: TrainConfig, examples: Examples) -> EncodedSet:
    if not isinstance(examples, EncodedSet):
        examples = task.encode(examples, max_length=config.max_length, strict=config.strict)
    examples.check_labelled("to learn from")
    return examples


def _optimizer(config: TrainConfig) -> OptimizerConfig:
    if config.optimizer == "sgd":
        return SGDConfig(momentum=config.momentum, weight_decay=config.weight_decay)
    return AdamWConfig(weight_decay=config.weight_decay)
