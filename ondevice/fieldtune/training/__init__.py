"""Training on the device: what is asked for, the loop that does it, and the report of what happened.

The names below are what other rooms use of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.training.backends import AdamWConfig, open_backend, read_parameters
    from fieldtune.training.batch_source import open_batches
    from fieldtune.training.config import TrainConfig
    from fieldtune.training.evaluation import Evaluation, EvaluationGraph, Ticks, evaluate, evaluate_with
    from fieldtune.training.files import rescue, write_run
    from fieldtune.training.opening import open_run, train_adapter
    from fieldtune.training.plan import settle
    from fieldtune.training.records import (
        DataCounts,
        EpochRecord,
        Evaluating,
        EvaluationRecord,
        Event,
        Progress,
        Started,
        StepRecord,
    )
    from fieldtune.training.report import RunDiverged, TrainReport

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
    "evaluate",
    "evaluate_with",
    "open_backend",
    "open_batches",
    "open_run",
    "read_parameters",
    "rescue",
    "settle",
    "train_adapter",
    "write_run",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "backends": (
                "AdamWConfig",
                "open_backend",
                "read_parameters",
            ),
            "batch_source": ("open_batches",),
            "config": ("TrainConfig",),
            "evaluation": (
                "Evaluation",
                "EvaluationGraph",
                "Ticks",
                "evaluate",
                "evaluate_with",
            ),
            "files": (
                "rescue",
                "write_run",
            ),
            "opening": (
                "open_run",
                "train_adapter",
            ),
            "plan": ("settle",),
            "records": (
                "DataCounts",
                "EpochRecord",
                "Evaluating",
                "EvaluationRecord",
                "Event",
                "Progress",
                "Started",
                "StepRecord",
            ),
            "report": (
                "RunDiverged",
                "TrainReport",
            ),
        },
    )
