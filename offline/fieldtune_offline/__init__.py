"""fieldtune on the dev box: turn a Hugging Face model into a bundle that devices adapt and serve.

The names below are public: what the commands do, as functions, and what these are asked for; each is loaded on first
use. Modules and sub-packages are the package's own.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune_offline.accelerators.rounding_effects import rounding_effect
    from fieldtune_offline.build import build_bundle
    from fieldtune_offline.merge import merge_adapter
    from fieldtune_offline.ort_training.export import export_ort_training
    from fieldtune_offline.spec import BuildSpec, MergeSpec, MethodSpec

__all__ = [
    "BuildSpec",
    "MergeSpec",
    "MethodSpec",
    "build_bundle",
    "export_ort_training",
    "merge_adapter",
    "rounding_effect",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "accelerators.rounding_effects": ("rounding_effect",),
            "build": ("build_bundle",),
            "merge": ("merge_adapter",),
            "ort_training.export": ("export_ort_training",),
            "spec": ("BuildSpec", "MergeSpec", "MethodSpec"),
        },
    )
