"""The precisions of the frozen base: a line each, loaded when it is asked for."""

import functools
import importlib
import inspect
from typing import Any

from fieldtune_offline.precisions.interface import Precision
from fieldtune_offline.spec import PrecisionSpec, changed, flags

_MODULES = {
    "int8": "fieldtune_offline.precisions.int8",
    "int4": "fieldtune_offline.precisions.int4",
    "nf4": "fieldtune_offline.precisions.nf4",
}
_STORED = {"stored": "fieldtune_offline.precisions.stored"}
"""What a model holds until it is packed; no bundle has it."""
FLOAT32 = "float32"
"""The base as it is: nothing is packed."""
NAMES = (FLOAT32, *_MODULES)
"""As ``--base`` has them."""


@functools.cache
def precision_of(recipe: str) -> Precision:
    """Return the precision that a recipe describes: its name, and its settings behind slashes."""
    name, *settings = recipe.split("/")
    module = importlib.import_module(_STORED[name]) if name in _STORED else _module(name)
    precision: Precision = module.restored(*settings)
    return precision


def chosen_precision(spec: PrecisionSpec, stored: str | None = None) -> Precision | None:
    """Return the precision that a build asks for; None where its base is float32.

    Args:
        spec: what is asked for.
        stored: recipe of what the checkpoint is packed in, which is the base's where none is asked for.

    Raises:
        ValueError: there is none of the name, or it does not have a setting.
    """
    given = {name: value for name, value in changed(spec).items() if name != "name"}
    name = FLOAT32 if spec.name is None else spec.name
    known = [] if name == FLOAT32 else list(inspect.signature(_module(name).chosen).parameters)
    foreign = [setting for setting in given if setting not in known]
    if foreign:
        raise ValueError(f"{flags(spec, foreign)}: the base {name} has no such setting; leave it out")
    if spec.name is None and stored is not None:
        return precision_of(stored)
    if name == FLOAT32:
        return None
    precision: Precision = _module(name).chosen(**given)
    return precision


def _module(name: str) -> Any:
    if name not in _MODULES:
        raise ValueError(f"base {name!r} is unknown; expected one of {', '.join(NAMES)}")
    return importlib.import_module(_MODULES[name])
