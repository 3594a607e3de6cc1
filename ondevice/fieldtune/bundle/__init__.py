"""The format of a bundle, and nothing that knows an adapter's method.

The names below are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.bundle.manifest import Manifest
    from fieldtune.bundle.opening import Bundle, open_bundle

__all__ = [
    "Bundle",
    "Manifest",
    "open_bundle",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Bundle": "fieldtune.bundle.opening",
        "Manifest": "fieldtune.bundle.manifest",
        "open_bundle": "fieldtune.bundle.opening",
    },
)
