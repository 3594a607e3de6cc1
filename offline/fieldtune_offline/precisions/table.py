"""The precisions of the frozen base: a line each, loaded when it is asked for."""

import functools
import importlib
import inspect
from typing import Any

from fieldtune_offline.precisions.interface import Precision
from fieldtune_offline.spec import PrecisionSpec, changed, flags

FLOAT32 = "float32"
"""The base as it is: nothing is packed."""
_MODULES = {
    FLOAT32: "fieldtune_offline.precisions.float32",
    "int8": "fieldtune_offline.precisions.int8",
    "int4": "fieldtune_offline.precisions.int4",
    "nf4": "fieldtune_offline.precisions.nf4",
}
NAMES = tuple(_MODULES)
"""As ``--base`` has them."""


@functools.cache
def precision_of(recipe: str) -> Precision:
    """Return the precision that a recipe describes: its name, and its settings behind slashes."""
    name, *settings = recipe.split("/")
    precision: Precision = _module(name).restored(*settings)
    return precision


def chosen_precision(spec: PrecisionSpec) -> Precision | None:
    """Return the precision that a build asks for; None where its base stays in float32.

    Raises:
        ValueError: there is none of the name, or it does not have a setting.
    """
    given = {name: value for name, value in changed(spec).items() if name != "name"}
    known = [] if spec.name == FLOAT32 else list(inspect.signature(_module(spec.name).chosen).parameters)
    foreign = [name for name in given if name not in known]
    if foreign:
        raise ValueError(f"{flags(spec, foreign)}: the base {spec.name} has no such setting; leave it out")
    if spec.name == FLOAT32:
        return None
    precision: Precision = _module(spec.name).chosen(**given)
    return precision


def _module(name: str) -> Any:
    if name not in _MODULES:
        raise ValueError(f"base {name!r} is unknown; expected one of {', '.join(NAMES)}")
    return importlib.import_module(_MODULES[name])
