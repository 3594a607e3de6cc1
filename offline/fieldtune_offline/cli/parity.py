"""``fieldtune-offline parity``: the figures that a bundle's build measured against torch."""

import dataclasses
from typing import TYPE_CHECKING

from fieldtune.cli.flags import BundlePath, JsonFlag

if TYPE_CHECKING:
    from rich.console import Console


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parity:
    """Show how far a bundle's graphs were from torch when it was built, after checking that its files are whole.

    Examples:
      fieldtune-offline parity artifacts/minilm
    """

    bundle: BundlePath
    """Folder that fieldtune-offline build made."""

    as_json: JsonFlag = False
    """Print one JSON object on stdout."""


def run(command: Parity, _console: "Console") -> int:
    """Print the figures; return the exit code."""
    from fieldtune.bundle import open_bundle
    from fieldtune.cli.results import print_json, print_tables
    from fieldtune_offline.cli.build import parity_tables

    manifest = open_bundle(command.bundle).manifest
    if command.as_json:
        official = manifest.ort_training.parity if manifest.ort_training else None
        print_json(
            {
                "bundle": str(command.bundle),
                "parity": manifest.parity,
                "ort_training_parity": official,
                "merge_parity": manifest.merged.parity if manifest.merged else None,
                "tools": manifest.tools,
            }
        )
    else:
        print_tables(*parity_tables(manifest))
    return 0
