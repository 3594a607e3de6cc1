"""Training on the device: what is asked for, the loop that does it, and the report of what happened.

The names below are what other rooms use of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.training.backends.choice import open_backend
    from fieldtune.training.backends.ort_checkpoint import read_parameters
    from fieldtune.training.batch_source import open_batches
    from fieldtune.training.config import TrainConfig
    from fieldtune.training.evaluation import Evaluation, EvaluationGraph, Ticks, evaluate_with
    from fieldtune.training.events import Evaluating, Event, Progress, Started
    from fieldtune.training.files import rescue, write_run
    from fieldtune.training.loop import train_adapter
    from fieldtune.training.optimizers import AdamWConfig
    from fieldtune.training.plan import settle
    from fieldtune.training.report import (
        DataCounts,
        EpochRecord,
        EvaluationRecord,
        RunDiverged,
        StepRecord,
        TrainReport,
    )

__all__ = [
    "AdamWConfig",
    "DataCounts",
    "EpochRecord",
    "Evaluating",
    "Evaluation",
    "EvaluationGraph",
    "EvaluationRecord",
    "Event",
    "Progress",
    "RunDiverged",
    "Started",
    "StepRecord",
    "Ticks",
    "TrainConfig",
    "TrainReport",
    "evaluate_with",
    "open_backend",
    "open_batches",
    "read_parameters",
    "rescue",
    "settle",
    "train_adapter",
    "write_run",
]

__getattr__ = lazy_names(
    __name__,
    {
        "backends.choice": ("open_backend",),
        "backends.ort_checkpoint": ("read_parameters",),
        "batch_source": ("open_batches",),
        "config": ("TrainConfig",),
        "evaluation": (
            "Evaluation",
            "EvaluationGraph",
            "Ticks",
            "evaluate_with",
        ),
        "events": (
            "Evaluating",
            "Event",
            "Progress",
            "Started",
        ),
        "files": (
            "rescue",
            "write_run",
        ),
        "loop": ("train_adapter",),
        "optimizers": ("AdamWConfig",),
        "plan": ("settle",),
        "report": (
            "DataCounts",
            "EpochRecord",
            "EvaluationRecord",
            "RunDiverged",
            "StepRecord",
            "TrainReport",
        ),
    },
)
