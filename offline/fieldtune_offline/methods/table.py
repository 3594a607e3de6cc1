"""The methods that the dev box knows: a line each, loaded when it is asked for."""

import importlib

from fieldtune_offline.methods.interface import Method

_MODULES = {
    "lora": "fieldtune_offline.methods.lora",
    "dora": "fieldtune_offline.methods.dora",
    "ia3": "fieldtune_offline.methods.ia3",
    "miss": "fieldtune_offline.methods.miss",
}


def method_named(name: str) -> Method:
    """Return a method.

    Raises:
        ValueError: there is none of the name.
    """
    if name not in _MODULES:
        raise ValueError(f"method {name!r} is unknown; expected one of {', '.join(_MODULES)}")
    method: Method = importlib.import_module(_MODULES[name]).METHOD
    return method
