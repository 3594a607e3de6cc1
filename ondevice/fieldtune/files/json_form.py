"""Values as JSON for machines: dataclasses become objects, and a number that JSON cannot say becomes null."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def json_value(value: object) -> Any:
    """Return a value as what json.dumps takes: dataclasses and mappings as dicts, NaN and infinities as None.

    Raises:
        TypeError: if it holds something else than numbers, texts, paths, None, dataclasses, mappings and sequences.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: json_value(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def json_text(value: object, *, indent: int | None = 1) -> str:
    """Return a value as one JSON document that ends with a line break.

    Raises:
        TypeError: as ``json_value``.
    """
    return json.dumps(json_value(value), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
