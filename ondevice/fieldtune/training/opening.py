"""open_run: from a bundle and examples to a run that can be stepped, stopped, snapshotted and restored."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from fieldtune.adapters import Adapter, adapter_labels, read_adapter, to_theta
from fieldtune.bundle import Bundle, FloatArray
from fieldtune.data import EncodedSet, Example
from fieldtune.errors import AdapterMismatch, InvalidData, listed
from fieldtune.hardware import HardwareProfile, OnMissing, features
from fieldtune.placement import choose_for
from fieldtune.runtime import ProviderChoice
from fieldtune.tasks import Task, open_task
from fieldtune.training.backends.choice import BackendChoice, choose_backend, open_backend
from fieldtune.training.batch_source import open_batches
from fieldtune.training.config import TrainConfig
from fieldtune.training.events import Progress, Started
from fieldtune.training.history import History, Snapshot
from fieldtune.training.optimizers import AdamWConfig, OptimizerConfig, SGDConfig
from fieldtune.training.plan import settle
from fieldtune.training.report import DataCounts, Subject, TrainReport, environment
from fieldtune.training.run import Outcome, Run, RunState

Examples: TypeAlias = Sequence[Example] | EncodedSet


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OpenRun:
    """A run whose graphs are open.

    Attributes:
        run: the steps.
        choice: the provider, and why that.
        backend: what computes the gradients, and why that.
        profile: name of the hardware profile.
        started: when it was opened, as ``time.perf_counter`` has it.
    """

    run: Run
    choice: ProviderChoice
    backend: BackendChoice
    profile: str
    started: float

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
    started = time.perf_counter()
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
            history=History(config=settled, good=Snapshot(0, theta)),
        )
        progress(
            Started(
                planned_steps=run.planned_steps,
                provider=choice,
                backend=backend,
                placement=source.split.placement if source.split else run.backend.placement,
                train_data=DataCounts.of(train_set),
                evaluation_data=DataCounts.of(held_out) if held_out else None,
            )
        )
        yield OpenRun(run=run, choice=choice, backend=backend, profile=profile.name, started=started)


def _report(opened: OpenRun, outcome: Outcome) -> TrainReport:
    run = opened.run
    manifest, history = run.bundle.manifest, run.history
    return TrainReport(
        adapter=run.adapter(outcome.kept),
        kept_step=outcome.kept.step,
        stopped=outcome.stopped,
        subject=Subject.of(manifest, adapter_labels(run.start, manifest)),
        config=run.config,
        profile=opened.profile,
        provider=opened.choice,
        backend=opened.backend,
        placement=run.backend.placement,
        split=run.source.split,
        planned_steps=run.planned_steps,
        steps=tuple(history.steps),
        epochs=tuple(history.epochs),
        evaluations=tuple(history.evaluations),
        train_data=DataCounts.of(run.train_set),
        evaluation_data=DataCounts.of(run.held_out) if run.held_out else None,
        skipped_steps=history.skipped_steps,
        skipped_microbatches=history.skipped_microbatches,
        tokens=history.tokens,
        training_seconds=history.training_seconds,
        seconds=time.perf_counter() - opened.started,
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
    if not any(example.weight for example in examples.examples):
        raise InvalidData(f"none of the {len(examples.examples)} example(s) has a label to learn from")
    return examples


def _optimizer(config: TrainConfig) -> OptimizerConfig:
    if config.optimizer == "sgd":
        return SGDConfig(momentum=config.momentum, weight_decay=config.weight_decay)
    return AdamWConfig(weight_decay=config.weight_decay)
