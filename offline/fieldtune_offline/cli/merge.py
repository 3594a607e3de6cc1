"""``fieldtune-offline merge``: an adapter folded into a bundle's weights."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fieldtune.cli.flags import BundlePath, FolderPath, JsonFlag

if TYPE_CHECKING:
    from rich.console import Console


@dataclasses.dataclass(frozen=True, kw_only=True)
class Merge:
    """Fold an adapter into a bundle's weights: a bundle of its own, which runs without adapters and trains none.

    Its graphs are compared with those of the bundle that take the adapter as inputs; a merge that differs is not
    written.

    Examples:
      fieldtune-offline merge artifacts/minilm adapters/kitchen --out artifacts/minilm-kitchen
    """

    bundle: BundlePath
    """Folder that fieldtune-offline build made."""

    adapter: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ADAPTER")]
    """PEFT directory, of any rank and alpha."""

    out: FolderPath
    """Folder of the merged bundle."""

    overwrite: bool = False
    """Replace the bundle if it exists."""

    as_json: JsonFlag = False
    """Print one JSON object on stdout."""


def run(command: Merge, console: "Console") -> int:
    """Merge and print the figures of parity; return the exit code."""
    from fieldtune.cli.results import print_json, print_tables
    from fieldtune_offline.cli.build import merge_parity_table, stage_printer
    from fieldtune_offline.merge import merge_adapter

    report = stage_printer(console)
    manifest = merge_adapter(command.bundle, command.adapter, command.out, overwrite=command.overwrite, report=report)
    report(f"written: {command.out}")
    if command.as_json:
        print_json({"bundle": str(command.out), "merged": manifest.merged})
    else:
        print_tables(merge_parity_table(manifest))
    return 0
