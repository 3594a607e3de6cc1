"""``fieldtune-offline merge``: an adapter folded into a bundle's weights."""

import dataclasses
from typing import TYPE_CHECKING

from fieldtune.cli.shared import JsonFlag, UsageError, print_json, print_tables
from fieldtune_offline.spec import MergeSpec

if TYPE_CHECKING:
    from rich.console import Console


@dataclasses.dataclass(frozen=True, kw_only=True)
class Merge:
    """Fold an adapter into a bundle's weights: a bundle of its own, which runs without adapters and trains none.

    Its graphs are compared with those of the bundle that take the adapter as inputs; a merge that differs is not
    written. A packed base is packed anew by the same recipes, and what that changes is printed.

    Examples:
      fieldtune-offline merge artifacts/minilm adapters/kitchen --out artifacts/minilm-kitchen
      fieldtune-offline merge artifacts/minilm-int4 adapters/kitchen --float32 --out artifacts/minilm-kitchen
      fieldtune-offline merge artifacts/photos adapters/dock --out dock --target vek280 --calibration photos.jsonl
    """

    spec: MergeSpec

    as_json: JsonFlag = False
    """Print one JSON object on stdout."""


def run(command: Merge, console: "Console") -> int:
    """Merge and print the figures of parity; return the exit code."""
    from fieldtune_offline.cli.build import parity_tables, stage_printer
    from fieldtune_offline.merge import merge_adapter
    from fieldtune_offline.spec_checks import check_calibration

    try:
        check_calibration(command.spec)
    except ValueError as error:
        raise UsageError(str(error)) from error
    report = stage_printer(console)
    manifest = merge_adapter(command.spec, report)
    report(f"written: {command.spec.out}")
    if command.as_json:
        print_json({"bundle": str(command.spec.out), "merged": manifest.merged, "targets": manifest.targets})
    else:
        print_tables(*parity_tables(manifest))
    return 0
