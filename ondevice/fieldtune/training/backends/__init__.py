"""What computes the gradients and takes the steps: stock ONNX Runtime, or its official training runtime.

The names below are what the rest of the room uses of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.training.backends.choice import BackendChoice, choose_backend, open_backend
    from fieldtune.training.backends.interface import TrainingBackend
    from fieldtune.training.backends.optimizers import AdamWConfig, OptimizerConfig, SGDConfig, State
    from fieldtune.training.backends.ort_checkpoint import read_parameters

__all__ = [
    "AdamWConfig",
    "BackendChoice",
    "OptimizerConfig",
    "SGDConfig",
    "State",
    "TrainingBackend",
    "choose_backend",
    "open_backend",
    "read_parameters",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "choice": (
                "BackendChoice",
                "choose_backend",
                "open_backend",
            ),
            "interface": ("TrainingBackend",),
            "optimizers": (
                "AdamWConfig",
                "OptimizerConfig",
                "SGDConfig",
                "State",
            ),
            "ort_checkpoint": ("read_parameters",),
        },
    )
