"""train_adapter: from a bundle and examples to an adapter and the report of the run."""

import time
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from fieldtune.adapters.adapter import Adapter, adapter_labels
from fieldtune.adapters.arrays import to_theta
from fieldtune.adapters.directory import read_adapter
from fieldtune.bundle.layout import FloatArray
from fieldtune.bundle.opening import Bundle
from fieldtune.data.batches import labelled_count
from fieldtune.data.examples import EncodedSet, Example
from fieldtune.errors import AdapterMismatch, InvalidData, listed
from fieldtune.hardware import HardwareProfile
from fieldtune.hardware.installed import features
from fieldtune.hardware.on_missing import OnMissing
from fieldtune.placement.targets import choose_for
from fieldtune.runtime.providers import ProviderChoice
from fieldtune.tasks.encoding import encode
from fieldtune.training.backends.choice import BackendChoice, choose_backend, open_backend
from fieldtune.training.batch_source import open_batches
from fieldtune.training.config import TrainConfig
from fieldtune.training.events import Progress, Started
from fieldtune.training.history import History, Snapshot
from fieldtune.training.optimizers import AdamWConfig, OptimizerConfig, SGDConfig
from fieldtune.training.plan import settle
from fieldtune.training.report import DataCounts, RunDiverged, Subject, TrainReport, environment
from fieldtune.training.run import Outcome, Run

Examples: TypeAlias = Sequence[Example] | EncodedSet


def train_adapter(
    bundle: Bundle,
    examples: Examples,
    config: TrainConfig,
    profile: HardwareProfile,
    *,
    evaluation: Examples | None = None,
    start: Adapter | None = None,
    on_missing: OnMissing | None = None,
    progress: Progress = lambda _: None,
) -> TrainReport:
    """Train an adapter on examples.

    The same bundle, examples, config and start give the same losses, bit for bit, on one machine with one version of
    ONNX Runtime and one number of threads. A KeyboardInterrupt ends the run with the work so far
    (``stopped="interrupted"``).

    Args:
        bundle: with a gradient graph; with examples to evaluate on, also an evaluation graph.
        examples: of the bundle's task, or what ``encode`` made of them.
        config: how to train.
        profile: of the device.
        evaluation: held-out examples; they are evaluated before, in between and after.
        start: the adapter to continue, at the bundle's own rank and alpha; the bundle's initial one if None.
        on_missing: what to do where the profile's provider is not there; what the profile says if None.
        progress: is told what happens, as it happens.

    Raises:
        AdapterMismatch: ``start`` cannot be trained with this bundle; every mismatch is listed.
        InvalidData: no example has a label; or examples that cannot be encoded.
        RunDiverged: a TrainingDiverged; its report holds the last good adapter.
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
    choice = choose_for(bundle, profile, on_missing=on_missing)
    settled = settle(config, profile, bundle.manifest)
    start = start or read_adapter(bundle.adapter_path)
    theta = _starting_theta(start, bundle)
    optimizer, found = _optimizer(settled), features()
    target = profile.accelerator.target if profile.accelerator else ""
    backend = choose_backend(settled.backend or "auto", found, choice, bundle, optimizer, target=target)
    whole = backend.name != "portable"
    with open_batches(bundle, profile, choice, settled.cache, on_missing=on_missing, whole=whole) as source:
        # Encoding may take minutes, and what is not compiled is told before.
        train_set = _encoded(bundle, settled, examples)
        held_out = _encoded(bundle, settled, evaluation) if evaluation is not None else None
        run = Run(
            bundle=bundle,
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
                train_data=_counts(train_set),
                evaluation_data=_counts(held_out) if held_out else None,
            )
        )
        outcome = run.train()
        report = _report(run, outcome, choice, backend, profile, time.perf_counter() - started)
    if outcome.fault:
        raise RunDiverged(outcome.fault, report)
    return report


def _report(
    run: Run,
    outcome: Outcome,
    choice: ProviderChoice,
    backend: BackendChoice,
    profile: HardwareProfile,
    seconds: float,
) -> TrainReport:
    manifest, history = run.bundle.manifest, run.history
    return TrainReport(
        adapter=run.adapter(outcome.kept),
        kept_step=outcome.kept.step,
        stopped=outcome.stopped,
        subject=Subject.of(manifest, adapter_labels(run.start, manifest)),
        config=run.config,
        profile=profile.name,
        provider=choice,
        backend=backend,
        placement=run.backend.placement,
        split=run.source.split,
        planned_steps=run.planned_steps,
        steps=tuple(history.steps),
        epochs=tuple(history.epochs),
        evaluations=tuple(history.evaluations),
        train_data=_counts(run.train_set),
        evaluation_data=_counts(run.held_out) if run.held_out else None,
        skipped_steps=history.skipped_steps,
        skipped_microbatches=history.skipped_microbatches,
        tokens=history.tokens,
        training_seconds=history.training_seconds,
        seconds=seconds,
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


def _encoded(bundle: Bundle, config: TrainConfig, examples: Examples) -> EncodedSet:
    if not isinstance(examples, EncodedSet):
        examples = encode(examples, bundle, max_length=config.max_length, strict=config.strict)
    if not any(labelled_count({"labels": example.labels[None]}) for example in examples.examples):
        raise InvalidData(f"none of the {len(examples.examples)} example(s) has a label to learn from")
    return examples


def _optimizer(config: TrainConfig) -> OptimizerConfig:
    if config.optimizer == "sgd":
        return SGDConfig(momentum=config.momentum, weight_decay=config.weight_decay)
    return AdamWConfig(weight_decay=config.weight_decay)


def _counts(encoded: EncodedSet) -> DataCounts:
    return DataCounts(examples=len(encoded.examples), truncated=encoded.truncated, dropped=encoded.dropped)
