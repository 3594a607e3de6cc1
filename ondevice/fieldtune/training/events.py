"""What a run tells while it goes on."""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

from fieldtune.placement import PlacementReport
from fieldtune.runtime import ProviderChoice
from fieldtune.training.backends.choice import BackendChoice
from fieldtune.training.report import DataCounts, EpochRecord, EvaluationRecord, StepRecord


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """The graphs are open; the first evaluation or step comes next.

    ``placement`` is of the prefix, if there is one; else of the gradient graph, unless the CPU runs that.
    """

    planned_steps: int
    provider: ProviderChoice
    backend: BackendChoice
    placement: PlacementReport | None
    train_data: DataCounts
    evaluation_data: DataCounts | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Evaluating:
    """So many batches of an evaluation are done."""

    done: int
    total: int


Event: TypeAlias = Started | StepRecord | EpochRecord | Evaluating | EvaluationRecord
Progress: TypeAlias = Callable[[Event], None]
