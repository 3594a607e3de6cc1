"""The precisions of packed matrices: a line each, loaded when it is asked for."""

import functools
import importlib

from fieldtune.bundle.precisions.interface import PackedPrecision
from fieldtune.errors import UnsupportedFormat

_MODULES = {
    "int8": "fieldtune.bundle.precisions.int8",
    "int4": "fieldtune.bundle.precisions.int4",
    "nf4": "fieldtune.bundle.precisions.nf4",
}


@functools.cache
def packed_precision(recipe: str) -> PackedPrecision:
    """Return the precision that a recipe of the manifest describes: its name, and its settings behind slashes.

    Raises:
        UnsupportedFormat: there is none of the name, or it has no such settings.
    """
    name, *settings = recipe.split("/")
    if name not in _MODULES:
        raise UnsupportedFormat(
            f"a matrix packed as {recipe!r}; this release unpacks {', '.join(_MODULES)}: use a later one, or build "
            "the bundle again with this one"
        )
    try:
        precision: PackedPrecision = importlib.import_module(_MODULES[name]).restored(*settings)
    except (TypeError, ValueError) as error:
        raise UnsupportedFormat(f"a matrix packed as {recipe!r}, whose settings are not known ({error})") from error
    return precision
