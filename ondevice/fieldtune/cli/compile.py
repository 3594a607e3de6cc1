"""``fieldtune compile``: a bundle's prefix compiled for an accelerator ahead of time, and where it will run."""

import dataclasses
from typing import TYPE_CHECKING, Any

from fieldtune.cli.shared import (
    BundlePath,
    JsonFlag,
    OnMissingFlag,
    ProfileName,
    placement_table,
    print_json,
    print_tables,
    say,
)

if TYPE_CHECKING:
    from rich.console import Console

    from fieldtune.compilation import Compiled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compile:
    """Compile the frozen prefix of a bundle for a profile's accelerator, and keep it for every later run.

    Nothing else compiles: train, evaluate and run take what is kept, and refuse it when the model, the accelerator, its
    driver, the provider or its options have changed since.

    Examples:
      fieldtune compile BUNDLE --profile vek280
      fieldtune compile BUNDLE --profile vek280 --on-missing emulate
    """

    bundle: BundlePath
    """Folder that fieldtune-offline build made with --target."""

    profile: ProfileName
    """Hardware profile with an accelerator: a name that fieldtune profiles lists, or a .toml file."""

    on_missing: OnMissingFlag = None
    """If the profile's provider is missing: fail, or emulate its accelerator; else as the profile says."""

    overwrite: bool = False
    """Compile again what is kept already."""

    as_json: JsonFlag = False
    """Print one JSON object on stdout."""


def run(command: Compile, console: "Console") -> int:
    """Compile and print the placement; return the exit code."""
    from fieldtune.cli.shared import open_named
    from fieldtune.compilation import compile_prefix

    opened = open_named(command.bundle, command.profile, command.on_missing)
    with console.status("") as status:

        def progress(said: str) -> None:
            # Without a terminal there is no status line to see.
            if console.is_terminal:
                status.update(said)
            else:
                say(console, said)

        compiled = compile_prefix(
            opened.bundle, opened.profile, opened.choice, overwrite=command.overwrite, progress=progress
        )
    if command.as_json:
        print_json(_record(command, compiled))
        return 0
    print_tables(placement_table(compiled.report))
    say(console, _closing(compiled))
    return 0


def _record(command: Compile, compiled: "Compiled") -> dict[str, Any]:
    return {
        "bundle": command.bundle,
        "placement": compiled.report.to_json(),
        "entry": compiled.folder,
        "fresh": compiled.fresh,
        # What the emulation took would be read as what the accelerator's compiler takes.
        "compile_seconds": None if compiled.report.emulated else compiled.seconds,
    }


def _closing(compiled: "Compiled") -> str:
    if not compiled.fresh:
        return f"kept since it was compiled; compile again with --overwrite: {compiled.folder}"
    took = "" if compiled.report.emulated else f" in {compiled.seconds:.1f} s"
    return f"{'checked' if compiled.report.emulated else 'compiled'}{took} and kept: {compiled.folder}"
