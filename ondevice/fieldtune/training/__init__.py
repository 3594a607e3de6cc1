"""Training on the device: what is asked for, the loop that does it, and the report of what happened.

The names below are loaded on first use: a command line needs the config alone, and no NumPy for it.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.training.config import TrainConfig
    from fieldtune.training.loop import train_adapter
    from fieldtune.training.report import RunDiverged, TrainReport

__all__ = ["RunDiverged", "TrainConfig", "TrainReport", "train_adapter"]

__getattr__ = lazy_names(
    __name__,
    {
        "TrainConfig": "fieldtune.training.config",
        "train_adapter": "fieldtune.training.loop",
        "RunDiverged": "fieldtune.training.report",
        "TrainReport": "fieldtune.training.report",
    },
)
