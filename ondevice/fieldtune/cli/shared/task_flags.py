"""Flags that the tasks bring: the names of their columns, and what ``fieldtune run`` takes for one of them alone."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fieldtune.data import Columns, column_flag
from fieldtune.tasks import NoOptions, task_class, task_names

_TASKS = tuple(task_class(name) for name in task_names())


def _flags(name: str, doc: str, fields: list[tuple[str, Any, Any]]) -> type[Any]:
    made = dataclasses.make_dataclass(name, fields, frozen=True, kw_only=True)
    made.__doc__ = doc
    return made


def _column(part: str, doc: str) -> tuple[str, Any, Any]:
    described = tyro.conf.arg(metavar="NAME", help=doc, name=column_flag(part).removeprefix("--"))
    return part, Annotated[str | None, described], dataclasses.field(default=None)


def _parts() -> dict[str, str]:
    parts: dict[str, str] = {}
    for task in _TASKS:
        for part, doc in task.columns.items():
            parts.setdefault(part, doc)
    return parts


def _field_of(kind: type[Any]) -> str:
    return kind.__name__.removesuffix("Options").lower()


def _option_types() -> list[type[Any]]:
    return [kind for kind in dict.fromkeys(task.options for task in _TASKS) if kind is not NoOptions]


if TYPE_CHECKING:
    ColumnFlags = Any
    TaskOptions = Any
else:
    ColumnFlags = _flags(
        "ColumnFlags",
        "Which columns hold what; where not given, they are guessed from their names.",
        [_column(part, doc) for part, doc in _parts().items()],
    )
    TaskOptions = _flags(
        "TaskOptions",
        "Of one task alone.",
        [(_field_of(kind), kind, dataclasses.field(default_factory=kind)) for kind in _option_types()],
    )


def named_columns(flags: ColumnFlags) -> Columns:
    """Return the columns that are named, by what they hold."""
    values = {field.name: getattr(flags, field.name) for field in dataclasses.fields(flags)}
    return {part: name for part, name in values.items() if name is not None}


def options_of(options: TaskOptions, kind: type[Any]) -> Any:
    """Return the options of a task, by their type."""
    return kind() if kind is NoOptions else getattr(options, _field_of(kind))


def changed_options(options: TaskOptions) -> dict[type[Any], list[str]]:
    """Return the flags that differ from their defaults, by the type of the options that they are among."""
    return {kind: _changed_flags(getattr(options, _field_of(kind)), kind()) for kind in _option_types()}


def _changed_flags(value: Any, default: Any) -> list[str]:
    """Return the flags of a dataclass, those within its fields included, that differ from the default's."""
    flags: list[str] = []
    for field in dataclasses.fields(value):
        mine, usual = getattr(value, field.name), getattr(default, field.name)
        if dataclasses.is_dataclass(mine):
            flags += _changed_flags(mine, usual)
        elif mine != usual:
            flags.append("--" + field.name.replace("_", "-"))
    return flags


def names_of(kind: type[Any]) -> list[str]:
    """Return the tasks that have options of a type."""
    return [task.name for task in _TASKS if task.options is kind]


def names_that_take(setting: str) -> list[str]:
    """Return the tasks that have one of the settings that tasks share."""
    return [task.name for task in _TASKS if setting in task.takes]
