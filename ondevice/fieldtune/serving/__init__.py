"""Answers: a bundle opened once for whatever adapters come and go, and text written token by token.

The names below are what other rooms use of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.serving.generation import chat
    from fieldtune.serving.generation_settings import GenerationSettings
    from fieldtune.serving.runner import LoadedAdapter, Runner
    from fieldtune.serving.sampling import softmax

__all__ = [
    "GenerationSettings",
    "LoadedAdapter",
    "Runner",
    "chat",
    "softmax",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "generation": ("chat",),
            "generation_settings": ("GenerationSettings",),
            "runner": (
                "LoadedAdapter",
                "Runner",
            ),
            "sampling": ("softmax",),
        },
    )
