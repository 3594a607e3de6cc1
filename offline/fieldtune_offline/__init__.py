"""fieldtune on the dev box: turn a Hugging Face model into a bundle that devices adapt and serve."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fieldtune_offline.build import build_bundle
    from fieldtune_offline.spec import BuildSpec, LoraSpec

__all__ = ["BuildSpec", "LoraSpec", "build_bundle"]

_HOME = {
    "BuildSpec": "fieldtune_offline.spec",
    "LoraSpec": "fieldtune_offline.spec",
    "build_bundle": "fieldtune_offline.build",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'fieldtune_offline' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
