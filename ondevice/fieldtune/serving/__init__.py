"""Answers: a bundle opened once for whatever adapters come and go, and text written token by token.

The names below are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.serving.runner import LoadedAdapter, Runner

__all__ = [
    "LoadedAdapter",
    "Runner",
]

__getattr__ = lazy_names(
    __name__,
    {
        "LoadedAdapter": "fieldtune.serving.runner",
        "Runner": "fieldtune.serving.runner",
    },
)
