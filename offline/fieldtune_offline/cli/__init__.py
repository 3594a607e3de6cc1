"""The command ``fieldtune-offline``."""

from collections.abc import Sequence

from fieldtune.cli.shared import Program

_DESCRIPTION = """Turn Hugging Face models into bundles that devices adapt and serve.

Examples:
  fieldtune-offline build ./minilm --task text-classification --labels negative positive --out artifacts/minilm
  fieldtune-offline export-ort artifacts/minilm
  fieldtune-offline merge artifacts/minilm adapters/kitchen --out artifacts/minilm-kitchen
  fieldtune-offline parity artifacts/minilm

fieldtune-offline COMMAND --help tells a command's flags; fieldtune-offline --version the version."""

PROGRAM = Program(
    name="fieldtune-offline",
    package="fieldtune_offline.cli",
    commands={"build": "Build", "export-ort": "ExportOrt", "merge": "Merge", "parity": "Parity"},
    description=_DESCRIPTION,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code, as ``Program.main`` does."""
    return PROGRAM.main(argv)
