"""The command ``fieldtune``."""

from collections.abc import Sequence

from fieldtune.cli.shared import Program

_DESCRIPTION = """Fine-tune in the field: adapt a model on this device's own data, and serve it.

A bundle comes from a dev box: fieldtune-offline build MODEL --task text-classification --out BUNDLE

Examples:
  fieldtune check BUNDLE --profile raspberry-pi-5
  fieldtune train BUNDLE --data train.jsonl --eval eval.jsonl --out adapter
  fieldtune evaluate BUNDLE --data eval.jsonl --adapter adapter
  fieldtune run BUNDLE --adapter adapter "A sentence."

fieldtune COMMAND --help tells a command's flags; fieldtune --version the version."""

PROGRAM = Program(
    name="fieldtune",
    package="fieldtune.cli",
    commands={
        "train": "Train",
        "evaluate": "Evaluate",
        "run": "Run",
        "compile": "Compile",
        "cache": "Cache",
        "inspect": "Inspect",
        "import-checkpoint": "ImportCheckpoint",
        "check": "Check",
        "profiles": "Profiles",
    },
    description=_DESCRIPTION,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code, as ``Program.main`` does."""
    return PROGRAM.main(argv)
