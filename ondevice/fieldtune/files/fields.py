"""Typed reading of JSON and TOML tables: each getter checks one key, and an error carries the key's path.

No validation framework: a dataclass is filled by a function that names each key once, then calls ``done`` so that keys
nobody asked for are faults, too.
"""

import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fieldtune.errors import FieldtuneError, UnsupportedFormat

T = TypeVar("T")
S = TypeVar("S", bound=str)

_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false", list: "a list", dict: "a table"}
_REQUIRED: Any = object()
_INTEGERS = range(-(1 << 63), 1 << 63)
"""What an integer of a file may be: larger ones fit into no array, float or C++ library."""
_VERSION = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SHOWN = 80
"""Characters of a value that a message shows."""


class Fields:
    """One table of a file, read key by key.

    Args:
        data: the parsed table.
        where: what the messages call it: a file, then the path of keys.
        error: the class of FieldtuneError to raise.
    """

    def __init__(self, data: object, where: str | Path, error: type[FieldtuneError]) -> None:
        if not isinstance(data, Mapping):
            raise error(f"{where}: expected a table, found {_kind(data)}")
        self._data: Mapping[str, Any] = data
        self._asked: set[str] = set()
        self._children: list[Fields] = []
        self._error = error
        self.where = str(where)

    def _get(self, key: str, kind: type[T], default: T) -> T:
        self._asked.add(key)
        if key not in self._data:
            if default is _REQUIRED:
                near = ", ".join(sorted(self._data)) or "nothing"
                raise self._error(
                    f"{self.where}: the key {key!r} is missing; expected {_NAMES[kind]}, found only: {near}"
                )
            return default
        value = self._data[key]
        if kind is float and type(value) is int and value in _INTEGERS:
            value = float(value)
        fault = _fault(value, kind)
        if fault:
            raise self._error(f"{self.where}: {key!r} is {fault}")
        typed: T = value
        return typed

    def text(self, key: str, default: str = _REQUIRED) -> str:
        """Return the string at a key."""
        return self._get(key, str, default)

    def choice(self, key: str, choices: tuple[S, ...], default: S = _REQUIRED) -> S:
        """Return the string at a key, which must be one of the choices."""
        value = self._get(key, str, default)
        if value not in choices:
            raise self._error(f"{self.where}: {key!r} is {_shown(value)}; expected one of {', '.join(choices)}")
        return choices[choices.index(value)]

    def integer(self, key: str, default: int = _REQUIRED, *, least: int | None = None) -> int:
        """Return the integer at a key."""
        value = self._get(key, int, default)
        if least is not None and value < least:
            raise self._error(f"{self.where}: {key!r} is {value}; expected at least {least}")
        return value

    def number(self, key: str, default: float = _REQUIRED) -> float:
        """Return the number at a key as a float; it is finite."""
        return self._get(key, float, default)

    def flag(self, key: str, default: bool = _REQUIRED) -> bool:
        """Return the truth value at a key."""
        return self._get(key, bool, default)

    def scalar(self, key: str) -> str | float | bool | None:
        """Return the string, number or truth value at a key, or None where the key is missing or null."""
        self._asked.add(key)
        value = self._data.get(key)
        if value is not None and not isinstance(value, str | int | float):
            raise self._error(f"{self.where}: {key!r} is {_kind(value)}; expected a string, a number, true or false")
        return value

    def texts(self, key: str, default: list[str] = _REQUIRED) -> tuple[str, ...]:
        """Return the list of strings at a key."""
        return tuple(self._items(key, str, default))

    def shape(self, key: str) -> tuple[int | str, ...]:
        """Return a tensor shape: integers, and names of symbolic dimensions."""
        values = self._get(key, list, _REQUIRED)
        for value in values:
            fault = _fault(value, str if isinstance(value, str) else int)
            if fault:
                raise self._error(f"{self.where}: {key!r} holds {fault}, in a list of integers and names")
            if isinstance(value, int) and value < 0:
                raise self._error(f"{self.where}: {key!r} holds {value}; expected sizes of at least 0, and names")
        return tuple(values)

    def sizes(self, key: str) -> tuple[int, ...]:
        """Return a tensor shape of non-negative integers."""
        values = self._items(key, int, _REQUIRED)
        if any(value < 0 for value in values):
            raise self._error(f"{self.where}: {key!r} is {_shown(values)}; expected sizes of at least 0")
        return tuple(values)

    def table(self, key: str, default: Mapping[str, Any] = _REQUIRED) -> "Fields":
        """Return the table at a key."""
        return self._child(self._get(key, dict, default), key)

    def optional_table(self, key: str) -> "Fields | None":
        """Return the table at a key, or None where the key is missing or null."""
        self._asked.add(key)
        return None if self._data.get(key) is None else self.table(key)

    def tables(self, key: str) -> list["Fields"]:
        """Return the list of tables at a key."""
        values = self._get(key, list, _REQUIRED)
        return [self._child(value, f"{key}[{index}]") for index, value in enumerate(values)]

    def named_tables(self, key: str, default: Mapping[str, Any] = _REQUIRED) -> dict[str, "Fields"]:
        """Return the table of tables at a key, by name."""
        outer = self.table(key, default)
        return {name: outer.table(name) for name in outer}

    def plain(self, key: str, default: Mapping[str, Any] = _REQUIRED) -> dict[str, Any]:
        """Return the table at a key as it is, for content that belongs to somebody else's format."""
        return dict(self._get(key, dict, default))

    def optional_text(self, key: str) -> str | None:
        """Return the string at a key, or None where the key is missing or null."""
        self._asked.add(key)
        return None if self._data.get(key) is None else self._get(key, str, _REQUIRED)

    def optional_integer(self, key: str, *, least: int | None = None) -> int | None:
        """Return the integer at a key, or None where the key is missing or null."""
        self._asked.add(key)
        return None if self._data.get(key) is None else self.integer(key, least=least)

    def optional_number(self, key: str) -> float | None:
        """Return the number at a key as a float, or None where the key is missing or null."""
        self._asked.add(key)
        return None if self._data.get(key) is None else self.number(key)

    def numbers(self, key: str) -> tuple[float, ...]:
        """Return the list of numbers at a key as floats; they are finite."""
        values = self._get(key, list, _REQUIRED)
        for value in values:
            fault = _fault(value, float if isinstance(value, float) else int)
            if fault:
                raise self._error(f"{self.where}: {key!r} holds {fault}, in a list of numbers")
        return tuple(float(value) for value in values)

    def integers(self, key: str) -> tuple[int, ...]:
        """Return the list of integers at a key."""
        return tuple(self._items(key, int, _REQUIRED))

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys in the file's order, which are the file's own names where somebody asks for them all.

        Raises:
            FieldtuneError: one is no text that could be written again.
        """
        for key in self._data:
            if _fault(key, str):
                raise self._error(f"{self.where}: a key is {_fault(key, str)}")
            yield key

    def done(self) -> None:
        """Refuse keys that nobody asked for, here and in the tables that were asked for."""
        unknown = sorted(set(self._data) - self._asked)
        if unknown:
            known = ", ".join(sorted(self._asked))
            raise self._error(
                f"{self.where}: unknown {_plural(unknown)} {', '.join(map(repr, unknown))}; known: {known}"
            )

        for child in self._children:
            child.done()

    def _child(self, data: Any, key: str) -> "Fields":
        child = Fields(data, f"{self.where}: {key}", self._error)
        self._children.append(child)
        return child

    def _items(self, key: str, kind: type[T], default: list[T]) -> list[T]:
        values = self._get(key, list, default)
        for value in values:
            fault = _fault(value, kind)
            if fault:
                raise self._error(f"{self.where}: {key!r} holds {fault} in each place")
        return values


def _fault(value: object, kind: type) -> str:
    """Return what a value is in place of what is expected, and that; "" where it is of the kind."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        return f"{_kind(value)}; expected {_NAMES[kind]}"
    if isinstance(value, int) and value not in _INTEGERS:
        return f"{_kind(value)}; expected one that fits into 64 bits with its sign"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{_kind(value)}; expected a finite one"
    if isinstance(value, str) and not is_text(value):
        return f"{_kind(value)}; expected text, and it has half of a surrogate pair"
    return ""


def is_text(value: str) -> bool:
    """Whether a string can be written in UTF-8: JSON's escapes can spell half of a surrogate pair, which cannot."""
    return value.isascii() or not _SURROGATE.search(value)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    name = _NAMES.get(type(value), f"a {type(value).__name__}")
    return f"{name} ({_shown(value)})" if isinstance(value, str | int | float) else name


def _shown(value: object) -> str:
    if isinstance(value, int) and value not in _INTEGERS:
        return f"of {value.bit_length()} bits"  # Python refuses to write out the largest
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _plural(keys: list[str]) -> str:
    return "key" if len(keys) == 1 else "keys"


def parse_json(data: bytes | str, where: str | Path, error: type[FieldtuneError], what_to_do: str = "") -> Any:
    """Return what a JSON document says.

    Args:
        data: the document; bytes are in UTF-8.
        where: what the message calls the file.
        error: the class of FieldtuneError to raise.
        what_to_do: about a damaged file, for the end of the message; "" where whoever catches the error adds it.

    Raises:
        FieldtuneError: the error, for what is not JSON, not UTF-8, or nested too deep.
    """
    try:
        return json.loads(data if isinstance(data, str) else data.decode())
    except (ValueError, RecursionError) as fault:  # UnicodeDecodeError is a ValueError
        raise error(f"{where}: not JSON ({fault}){what_to_do and f'; {what_to_do}'}") from fault


def check_version(version: str, known: str, where: str, *, again: str = "build it again") -> bool:
    """Check a ``major.minor`` version: return whether it is a later minor one (after a warning).

    Args:
        version: the version in the file.
        known: the version that is read here.
        where: what the messages call the file.
        again: what to do with a file of an earlier major version.

    Raises:
        UnsupportedFormat: another major version, or not of that form.
    """
    parts = _VERSION.fullmatch(version)
    if not parts:
        raise UnsupportedFormat(f"{where}: format_version is {_shown(version)}; expected major.minor, as {known}")
    major, minor = map(int, parts.groups())
    known_major, known_minor = (int(part) for part in known.split("."))
    if major != known_major:
        advice = "update fieldtune" if major > known_major else again
        raise UnsupportedFormat(f"{where}: format_version is {version}; this fieldtune reads {known_major}.x: {advice}")
    if minor > known_minor:
        warnings.warn(
            f"{where}: format {version} is later than {known}; keys that this fieldtune does not know are ignored",
            stacklevel=3,
        )
    return minor > known_minor
