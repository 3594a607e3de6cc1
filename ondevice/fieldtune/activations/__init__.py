"""The activation cache: what the frozen prefix gives for a sample is computed once and kept, in memory and on disk.

The names below are what other rooms use of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.activations.cache import ActivationCache, CacheStatistics, open_cache
    from fieldtune.activations.codes import record_form
    from fieldtune.activations.folders import PrefixName, StoredActivations, clear_activations, list_activations
    from fieldtune.activations.records import ENTRY_BYTES
    from fieldtune.activations.settings import CacheSettings

__all__ = [
    "ENTRY_BYTES",
    "ActivationCache",
    "CacheSettings",
    "CacheStatistics",
    "PrefixName",
    "StoredActivations",
    "clear_activations",
    "list_activations",
    "open_cache",
    "record_form",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "cache": (
                "ActivationCache",
                "CacheStatistics",
                "open_cache",
            ),
            "codes": ("record_form",),
            "folders": (
                "PrefixName",
                "StoredActivations",
                "clear_activations",
                "list_activations",
            ),
            "records": ("ENTRY_BYTES",),
            "settings": ("CacheSettings",),
        },
    )
