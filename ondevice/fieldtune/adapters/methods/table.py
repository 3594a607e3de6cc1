"""The methods that the device knows: a line each, loaded when one of its adapters or bundles is met."""

import importlib
from collections.abc import Mapping
from typing import Any

from fieldtune.adapters.methods.interface import Method
from fieldtune.errors import InvalidBundle

_MODULES = {
    "dora": "fieldtune.adapters.methods.dora",
    "lora": "fieldtune.adapters.methods.lora",
    "ia3": "fieldtune.adapters.methods.ia3",
    "miss": "fieldtune.adapters.methods.miss",
}
"""Name → module; of methods that share a type of PEFT's, the one that asks for more comes first."""
DEFAULT = "lora"
"""What is built where nobody says which."""


def method_named(name: str, where: str = "the bundle") -> Method:
    """Return the method of a bundle.

    Raises:
        InvalidBundle: there is none of the name.
    """
    if name not in _MODULES:
        raise InvalidBundle(
            f"{where}: adapts by the method {name!r}, which this fieldtune does not know (it knows "
            f"{', '.join(_MODULES)}); update fieldtune"
        )
    method: Method = importlib.import_module(_MODULES[name]).METHOD
    return method


def all_methods() -> tuple[Method, ...]:
    """Return every method."""
    return tuple(method_named(name) for name in _MODULES)


def method_of(config: Mapping[str, Any]) -> Method | None:
    """Return the method that an adapter_config.json is of; None where it is of none that is known."""
    return next((method for method in all_methods() if method.owns(config)), None)
