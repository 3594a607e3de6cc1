"""What a bundle will need on a device, from its manifest and node tables alone: nothing is run, no model is read.

``workload`` says which graphs a command opens and how much goes into them, ``sessions`` what a session of ONNX Runtime
takes, ``packed_products`` what operators do with packed matrices, ``memory`` adds it all up; ``placing`` tells what
would run where, ``step_time`` about how long it takes, and ``storage`` what lies on the disk.

The names below are what other rooms use of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.preflight.checking import Preflight, check_bundle
    from fieldtune.preflight.packed_products import multiplies_integers
    from fieldtune.preflight.placing import GraphPlacement

__all__ = [
    "GraphPlacement",
    "Preflight",
    "check_bundle",
    "multiplies_integers",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "checking": (
                "Preflight",
                "check_bundle",
            ),
            "packed_products": ("multiplies_integers",),
            "placing": ("GraphPlacement",),
        },
    )
