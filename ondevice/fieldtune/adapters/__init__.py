"""Adapters as PEFT stores them: read, written, held against a bundle, and turned into arrays.

The names below are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.adapters.adapter import Adapter, AdapterCard
    from fieldtune.adapters.directory import read_adapter, write_adapter

__all__ = [
    "Adapter",
    "AdapterCard",
    "read_adapter",
    "write_adapter",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Adapter": "fieldtune.adapters.adapter",
        "AdapterCard": "fieldtune.adapters.adapter",
        "read_adapter": "fieldtune.adapters.directory",
        "write_adapter": "fieldtune.adapters.directory",
    },
)
