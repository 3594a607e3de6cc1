"""``fieldtune profiles``: which hardware profiles there are, and what one says."""

import dataclasses
from typing import TYPE_CHECKING, Annotated

import tyro

from fieldtune.cli.flags import JsonFlag

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fieldtune.hardware import HardwareProfile


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profiles:
    """List the hardware profiles, or show one with the sources of its figures.

    Examples:
      fieldtune profiles
      fieldtune profiles raspberry-pi-5
    """

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None
    """Profile to show: a name, or a .toml file."""

    as_json: JsonFlag = False
    """Print one JSON object on stdout."""


def run(command: Profiles, _console: "Console") -> int:
    """Print the profiles; return the exit code."""
    from fieldtune.cli.results import new_table, print_json, print_tables
    from fieldtune.hardware import load_profile, profile_names

    if command.name is not None:
        profile = load_profile(command.name)
        if command.as_json:
            print_json(profile)
        else:
            print_tables(*profile_tables(profile))
        return 0
    profiles = [load_profile(name) for name in profile_names()]
    if command.as_json:
        print_json({"profiles": profiles})
        return 0
    table = new_table("Hardware profiles", ("name", "device", "provider", "support"))
    for profile in profiles:
        table.add_row(profile.name, profile.title, profile.execution.provider, profile.support)
    print_tables(table)
    return 0


def profile_tables(profile: "HardwareProfile") -> "list[Table]":
    """Return a profile as tables: what it says, and where that is from."""
    from fieldtune.cli.results import new_table

    table = new_table(f"{profile.name}: {profile.title}")
    table.add_row("description", profile.description)
    table.add_row("support", profile.support)
    for name in ("cpu", "memory", "execution", "runtime", "training", "accelerator"):
        part = getattr(profile, name)
        for field in dataclasses.fields(part) if part is not None else ():
            value = getattr(part, field.name)
            if value not in (None, "", (), {}):
                table.add_row(f"{name}.{field.name}", _text(field.name, value))
    sources = new_table("Sources", ("what", "where"))
    for source in profile.sources:
        sources.add_row(source.what, source.where)
    return [table, sources]


def _text(name: str, value: object) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value / 2**30:.1f} GiB"
    if name == "frequency_hz" and isinstance(value, int):
        return f"{value / 1e9:g} GHz"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} = {item}" for key, item in value.items())
    return str(value)
