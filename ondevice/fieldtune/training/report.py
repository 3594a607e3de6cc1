"""TrainReport: what a training run did, for people, for machines and for the page that is drawn from it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from fieldtune.adapters import Adapter
from fieldtune.bundle import Manifest
from fieldtune.errors import TrainingDiverged
from fieldtune.files import json_value
from fieldtune.training.config import TrainConfig
from fieldtune.training.evaluation import Evaluation
from fieldtune.training.records import EpochRecord, EvaluationRecord, Started, StepRecord, Stopped

FORMAT_VERSION = "2.0"


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
class TrainReport(Started):
    """What a training run did, and all that ``Started`` told: profile, provider, backend, placement and data.

    ``split`` is how the prefix was run by the end, evaluations included.

    Attributes:
        adapter: what came out.
        kept_step: after how many steps it was; 0 is the start.
        stopped: why the run ended.
        subject: what was trained.
        config: what was asked for, with sizes filled in.
        steps: those that were taken.
        epochs: those that were begun, with their times.
        evaluations: before the first step, in between, and after the last; empty without evaluation examples.
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
    steps: tuple[StepRecord, ...]
    epochs: tuple[EpochRecord, ...]
    evaluations: tuple[EvaluationRecord, ...]
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
