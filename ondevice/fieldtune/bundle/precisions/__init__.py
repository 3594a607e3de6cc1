"""Packed matrices of the base, unpacked a few rows at a time, for what a device makes of the base's weights.

The names below are what other rooms use of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.bundle.precisions.interface import Array, PackedPrecision
    from fieldtune.bundle.precisions.table import packed_precision

__all__ = ["Array", "PackedPrecision", "packed_precision"]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "interface": (
                "Array",
                "PackedPrecision",
            ),
            "table": ("packed_precision",),
        },
    )
