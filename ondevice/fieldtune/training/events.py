"""What a run tells while it goes on."""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

from fieldtune.backends.choice import BackendChoice
from fieldtune.providers import ProviderChoice
from fieldtune.training.report import DataCounts, EvaluationRecord, StepRecord


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """The graphs are open; the first evaluation or step comes next."""

    planned_steps: int
    provider: ProviderChoice
    backend: BackendChoice
    train_data: DataCounts
    evaluation_data: DataCounts | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Evaluating:
    """So many batches of an evaluation are done."""

    done: int
    total: int


Event: TypeAlias = Started | StepRecord | Evaluating | EvaluationRecord
Progress: TypeAlias = Callable[[Event], None]
