"""``fieldtune-offline parity``: the figures that a bundle's build measured against torch."""

import dataclasses
from typing import TYPE_CHECKING

from fieldtune.cli.shared import BundlePath, JsonFlag, new_table, print_json, print_tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from fieldtune_offline.accelerators.rounding_effects import RoundingEffect


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parity:
    """Show how far a bundle's graphs were from torch when it was built, after checking that its files are whole.

    Examples:
      fieldtune-offline parity artifacts/minilm
      fieldtune-offline parity artifacts/photos --rounding
    """

    bundle: BundlePath
    """Folder that fieldtune-offline build made."""

    rounding: bool = False
    """Also compute what halves rounded up, as a DPU does, change of each quantized prefix: a minute for a large one."""

    as_json: JsonFlag = False
    """Print one JSON object on stdout."""


def run(command: Parity, _console: "Console") -> int:
    """Print the figures; return the exit code."""
    from fieldtune.bundle import open_bundle
    from fieldtune_offline.accelerators.rounding_effects import rounding_effect
    from fieldtune_offline.cli.build import parity_tables

    bundle = open_bundle(command.bundle)
    manifest = bundle.manifest
    effects = [rounding_effect(bundle, name) for name in manifest.targets] if command.rounding else None
    if command.as_json:
        official = manifest.ort_training.parity if manifest.ort_training else None
        print_json(
            {
                "bundle": str(command.bundle),
                "parity": manifest.parity,
                "ort_training_parity": official,
                "merge_parity": manifest.merged.parity if manifest.merged else None,
                "packing_cost": manifest.base.packed.cost if manifest.base.packed else None,
                "tools": manifest.tools,
                "rounding": effects,
            }
        )
    else:
        print_tables(*parity_tables(manifest))
        if effects:
            print_tables(_rounding_table(effects))
    return 0


def _rounding_table(effects: "Sequence[RoundingEffect]") -> "Table":
    """Return what halves rounded up change as a table."""
    columns = ("target", "of", ">differ", ">by more than 1 LSB", ">at most")
    table = new_table("Halves rounded up, as a DPU does, against halves rounded to even", columns)
    for effect in effects:
        most = effect.operator_largest_lsb
        beyond = "0.0%" if most <= 1 else "-"
        of = f"{effect.operators} operators, each by itself"
        table.add_row(effect.target, of, f"{effect.operator_differing:.1%}", beyond, f"{most} LSB")
        for output in effect.boundary:
            shares = (f"{share:.1%}" for share in (output.differing, output.beyond))
            table.add_row(effect.target, output.name, *shares, f"{output.largest_lsb:.0f} LSB")
    return table
