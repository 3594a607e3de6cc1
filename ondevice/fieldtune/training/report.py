"""TrainReport: what a training run did, for people, for machines and for the page that is drawn from it."""

import dataclasses
import os
import platform
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np

from fieldtune.adapters import Adapter
from fieldtune.bundle import Manifest
from fieldtune.data import EncodedSet
from fieldtune.errors import TrainingDiverged
from fieldtune.files import json_value
from fieldtune.hardware import features
from fieldtune.placement import PlacementReport
from fieldtune.runtime import ProviderChoice
from fieldtune.training.backends.choice import BackendChoice
from fieldtune.training.batch_source import SplitReport
from fieldtune.training.config import TrainConfig
from fieldtune.training.evaluation import Evaluation
from fieldtune.version import __version__

FORMAT_VERSION = "1.1"
Stopped: TypeAlias = Literal["completed", "interrupted", "diverged"]


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
class Subject:
    """What was trained: the base model, its task, what goes in, and the number of adapter parameters."""

    base: str
    base_sha256: str
    architecture: str
    licence: str | None
    task: str
    modality: Literal["text", "image"]
    labels: tuple[str, ...]
    parameters: int

    @classmethod
    def of(cls, manifest: Manifest, labels: tuple[str, ...]) -> "Subject":
        """Return what a bundle's manifest says, with an adapter's names of the labels."""
        return cls(
            base=manifest.base.id,
            base_sha256=manifest.base.sha256,
            architecture=manifest.base.architecture,
            licence=manifest.base.licence,
            task=manifest.task.name,
            modality="image" if manifest.image else "text",
            labels=labels,
            parameters=manifest.layout.size,
        )


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
class TrainReport:
    """What a training run did.

    Attributes:
        adapter: what came out.
        kept_step: after how many steps it was; 0 is the start.
        stopped: why the run ended.
        subject: what was trained.
        config: what was asked for, with sizes filled in.
        profile: name of the hardware profile.
        provider: the execution provider and why it was chosen.
        backend: what computed the gradients, and why that.
        placement: where the gradient graph ran, as it was read back; None on the CPU.
        split: how the frozen prefix was run, evaluations included; None where the whole graphs were.
        planned_steps: optimizer steps of the whole run.
        steps: those that were taken.
        epochs: those that were begun, with their times.
        evaluations: before the first step, in between, and after the last; empty without evaluation examples.
        train_data: the examples.
        evaluation_data: the examples held out, if there were any.
        skipped_steps: steps left out because none of their examples has a label.
        skipped_microbatches: batches left out for the same reason.
        tokens: that went through the gradient graph, without padding; 0 where the examples are images.
        training_seconds: wall-clock time of the steps, an emulation of the prefix included.
        seconds: wall-clock time of everything, from opening the graphs, an emulation of the prefix included.
        environment: versions and machine.
    """

    adapter: Adapter
    kept_step: int
    stopped: Stopped
    subject: Subject
    config: TrainConfig
    profile: str
    provider: ProviderChoice
    backend: BackendChoice
    placement: PlacementReport | None
    split: SplitReport | None
    planned_steps: int
    steps: tuple[StepRecord, ...]
    epochs: tuple[EpochRecord, ...]
    evaluations: tuple[EvaluationRecord, ...]
    train_data: DataCounts
    evaluation_data: DataCounts | None
    skipped_steps: int
    skipped_microbatches: int
    tokens: int
    training_seconds: float
    seconds: float
    environment: Mapping[str, str]

    @property
    def before(self) -> Evaluation | None:
        """The evaluation before the first step, if there was one."""
        first = self.evaluations[0] if self.evaluations else None
        return first.evaluation if first and first.step == 0 else None

    @property
    def after(self) -> Evaluation | None:
        """The evaluation of the adapter that came out, if there was one."""
        kept = [record.evaluation for record in self.evaluations if record.step == self.kept_step]
        return kept[-1] if kept else None

    def to_json(self) -> dict[str, Any]:
        """Return everything but the adapter, as json.dumps takes it; what is not a number is None."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "adapter"]
        fields: dict[str, Any] = json_value({name: getattr(self, name) for name in names})
        fields["provider"] = self.provider.to_json()
        fields["placement"] = self.placement and self.placement.to_json()
        for record, evaluated in zip(fields["evaluations"], self.evaluations, strict=True):
            record["evaluation"] = evaluated.evaluation.to_json()
        return {"format_version": FORMAT_VERSION, **fields}


class RunDiverged(TrainingDiverged):
    """A run whose loss or gradient is no longer a number; ``report`` holds the last good adapter."""

    def __init__(self, message: str, report: TrainReport) -> None:
        super().__init__(message)
        self.report = report


def environment() -> dict[str, str]:
    """Return versions and machine, for a report.

    Raises:
        ProviderUnavailable: if there is no usable ONNX Runtime.
    """
    return {
        "fieldtune": __version__,
        "onnxruntime": features().version,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(os.cpu_count() or "unknown"),
    }
