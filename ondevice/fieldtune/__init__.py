"""fieldtune on the device: open a bundle, adapt its adapter on local data, serve the result.

The public names below are loaded on first use, so that importing the package costs nothing but the interpreter.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names
from fieldtune.version import __version__

if TYPE_CHECKING:
    from fieldtune.bundle.opening import Bundle, open_bundle
    from fieldtune.errors import FieldtuneError
    from fieldtune.hardware import HardwareProfile, load_profile
    from fieldtune.serving.runner import Runner
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
    "train_adapter",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Bundle": "fieldtune.bundle.opening",
        "open_bundle": "fieldtune.bundle.opening",
        "FieldtuneError": "fieldtune.errors",
        "HardwareProfile": "fieldtune.hardware",
        "load_profile": "fieldtune.hardware",
        "Runner": "fieldtune.serving.runner",
        "TrainConfig": "fieldtune.training",
        "TrainReport": "fieldtune.training",
        "train_adapter": "fieldtune.training",
    },
)
