"""fieldtune on the device: open a bundle, adapt its adapter on local data, serve the result.

The public names below are loaded on first use, so that importing the package costs nothing but the interpreter.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names
from fieldtune.version import __version__

if TYPE_CHECKING:
    from fieldtune.bundle import Bundle, open_bundle
    from fieldtune.errors import FieldtuneError
    from fieldtune.hardware import HardwareProfile, load_profile
    from fieldtune.serving import Runner
    from fieldtune.tasks import open_task
    from fieldtune.training import TrainConfig, TrainReport, train_adapter

__all__ = [
    "Bundle",
    "FieldtuneError",
    "HardwareProfile",
    "Runner",
    "TrainConfig",
    "TrainReport",
    "__version__",
    "load_profile",
    "open_bundle",
    "open_task",
    "train_adapter",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "bundle": ("Bundle", "open_bundle"),
            "errors": ("FieldtuneError",),
            "hardware": ("HardwareProfile", "load_profile"),
            "serving": ("Runner",),
            "tasks": ("open_task",),
            "training": ("TrainConfig", "TrainReport", "train_adapter"),
        },
    )
