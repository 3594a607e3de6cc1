"""fieldtune on the device: open a bundle, adapt its adapter on local data, serve the result.

The public names below are loaded on first use, so that importing the package costs nothing but the interpreter.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fieldtune.bundle import Bundle, open_bundle
    from fieldtune.errors import FieldtuneError
    from fieldtune.hardware import HardwareProfile, load_profile
    from fieldtune.inference import Runner
    from fieldtune.training import TrainConfig, TrainReport, train_adapter

__all__ = [
    "Bundle",
    "FieldtuneError",
    "HardwareProfile",
    "Runner",
    "TrainConfig",
    "TrainReport",
    "load_profile",
    "open_bundle",
    "train_adapter",
]

_HOME = {
    "Bundle": "fieldtune.bundle",
    "open_bundle": "fieldtune.bundle",
    "FieldtuneError": "fieldtune.errors",
    "HardwareProfile": "fieldtune.hardware",
    "load_profile": "fieldtune.hardware",
    "Runner": "fieldtune.inference",
    "TrainConfig": "fieldtune.training",
    "TrainReport": "fieldtune.training",
    "train_adapter": "fieldtune.training",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'fieldtune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
