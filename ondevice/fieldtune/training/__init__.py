"""Training on the device: what is asked for, the loop that does it, and the report of what happened.

The names below are loaded on first use: a command line needs the config alone, and no NumPy for it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fieldtune.training.config import TrainConfig
    from fieldtune.training.loop import train_adapter
    from fieldtune.training.report import RunDiverged, TrainReport

__all__ = ["RunDiverged", "TrainConfig", "TrainReport", "train_adapter"]

_HOME = {
    "TrainConfig": "fieldtune.training.config",
    "train_adapter": "fieldtune.training.loop",
    "RunDiverged": "fieldtune.training.report",
    "TrainReport": "fieldtune.training.report",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'fieldtune.training' has no attribute {name!r}")
