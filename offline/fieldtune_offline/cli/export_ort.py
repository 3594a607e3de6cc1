"""``fieldtune-offline export-ort``: ONNX Runtime's official training artifacts for a bundle that exists."""

import dataclasses
from typing import TYPE_CHECKING

from fieldtune.cli.shared import BundlePath, JsonFlag, OptionalFolder, print_json, print_tables

if TYPE_CHECKING:
    from rich.console import Console


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOrt:
    """Add ONNX Runtime's official training artifacts to a bundle.

    They are what onnxruntime.training.api and its siblings in C, C++, C# and Java load: training_model.onnx,
    eval_model.onnx, optimizer_model.onnx and checkpoint, in the bundle's folder ort_training. The tool that makes them
    runs in an environment of its own, which is made once and kept (in FIELDTUNE_CACHE, else ~/.cache/fieldtune). Loss
    and gradients are compared with gradient.onnx before anything is written.

    Examples:
      fieldtune-offline export-ort artifacts/minilm
      fieldtune-offline export-ort artifacts/minilm --adapter adapters/kitchen
    """

    bundle: BundlePath
    """Folder that fieldtune-offline build made."""

    adapter: OptionalFolder = None
    """PEFT directory that the checkpoint starts from, of the bundle's own rank; the bundle's initial one if not
    given."""

    as_json: JsonFlag = False
    """Print one JSON object on stdout."""


def run(command: ExportOrt, console: "Console") -> int:
    """Export and print the figures of parity; return the exit code."""
    from fieldtune_offline.cli.build import ort_parity_table, stage_printer
    from fieldtune_offline.ort_training.export import FOLDER, export_ort_training

    report = stage_printer(console)
    manifest = export_ort_training(command.bundle, command.adapter, report)
    report(f"written: {command.bundle / FOLDER}")
    if command.as_json:
        print_json({"bundle": str(command.bundle), "ort_training": manifest.ort_training})
    else:
        print_tables(ort_parity_table(manifest))
    return 0
