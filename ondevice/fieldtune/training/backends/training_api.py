"""onnxruntime.training without torch: its submodules, imported past the package's own ``__init__``.

``onnxruntime.training.__init__`` imports torch (1.19.2), which neither ``onnxruntime.training.api`` nor
``onnxruntime.training.artifacts`` needs. This file imports nothing but the standard library: the dev box also runs it,
by its path, in the environment that holds the training build alone.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType

_PACKAGE = "onnxruntime.training"


def import_training(submodule: str) -> ModuleType:
    """Return ``onnxruntime.training.SUBMODULE``, and leave no trace of the detour.

    Raises:
        ImportError: this ONNX Runtime is not a training build, or the submodule needs what is not installed.
    """
    name = f"{_PACKAGE}.{submodule}"
    if name in sys.modules:
        return sys.modules[name]
    if _PACKAGE in sys.modules:  # whoever imported the package itself has torch
        return importlib.import_module(name)
    runtime = importlib.import_module("onnxruntime")
    stand_in = ModuleType(_PACKAGE)
    stand_in.__path__ = [str(Path(str(runtime.__file__)).parent / "training")]
    sys.modules[_PACKAGE] = stand_in
    try:
        return importlib.import_module(name)
    finally:
        # A later "import onnxruntime.training", of somebody who has torch, must find the real package.
        del sys.modules[_PACKAGE]
