"""Adapters as PEFT stores them: read, written, held against a bundle, and turned into arrays.

The names below are what other rooms use of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.adapters.adapter import PREFIX, Adapter, adapted_modules, adapter_labels
    from fieldtune.adapters.arrays import from_theta, inference_inputs, to_theta
    from fieldtune.adapters.directory import CONFIG_NAME, TENSORS_NAME, initial_adapter, read_adapter, write_adapter
    from fieldtune.adapters.methods import method_named, method_of

__all__ = [
    "CONFIG_NAME",
    "PREFIX",
    "TENSORS_NAME",
    "Adapter",
    "adapted_modules",
    "adapter_labels",
    "from_theta",
    "inference_inputs",
    "initial_adapter",
    "method_named",
    "method_of",
    "read_adapter",
    "to_theta",
    "write_adapter",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "adapter": (
                "Adapter",
                "PREFIX",
                "adapted_modules",
                "adapter_labels",
            ),
            "arrays": (
                "from_theta",
                "inference_inputs",
                "to_theta",
            ),
            "directory": (
                "CONFIG_NAME",
                "TENSORS_NAME",
                "initial_adapter",
                "read_adapter",
                "write_adapter",
            ),
            "methods": (
                "method_named",
                "method_of",
            ),
        },
    )
