"""``fieldtune import-checkpoint``: from a checkpoint of ONNX Runtime's training API to an adapter."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fieldtune.cli.shared import BundlePath, FolderPath, JsonFlag, print_json

if TYPE_CHECKING:
    from rich.console import Console


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportCheckpoint:
    """Turn a checkpoint that a program saved with ONNX Runtime's training API into an adapter.

    For what was trained from the bundle's ort_training files in C, C++, C#, Java or Python without fieldtune. Writes a
    PEFT directory.

    Examples:
      fieldtune import-checkpoint BUNDLE saved/checkpoint --out adapter
    """

    bundle: BundlePath
    """Folder of the bundle whose ort_training files were trained."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """File that the training API saved."""

    out: FolderPath
    """Folder for the adapter."""

    overwrite: bool = False
    """Replace the output folder if it holds an adapter."""

    as_json: JsonFlag = False
    """Print one JSON object on stdout."""


def run(command: ImportCheckpoint, _console: "Console") -> int:
    """Read the checkpoint's parameters and write them as an adapter; return the exit code."""
    from fieldtune.adapters import CONFIG_NAME, from_theta, read_adapter, write_adapter
    from fieldtune.bundle import open_bundle
    from fieldtune.files import output_folder
    from fieldtune.training import read_parameters

    bundle = open_bundle(command.bundle)
    bundle.check_trainable()
    theta = read_parameters(command.checkpoint, bundle.manifest.layout)
    initial = read_adapter(bundle.adapter_path)
    adapter = from_theta(theta, bundle.manifest, initial, bundle.manifest.task.labels, None)
    needed = len(adapter.tensors.to_bytes())
    with output_folder(command.out, overwrite=command.overwrite, marks=(CONFIG_NAME,), needed_bytes=needed) as folder:
        write_adapter(adapter, folder)
    if command.as_json:
        print_json({"out": command.out, "parameters": theta.size})
    else:
        sys.stdout.write(f"adapter: {command.out}\n")
    return 0
