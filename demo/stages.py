"""What the demos have in common: headings, and commands that are printed before they run."""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import environments


def heading(text: str) -> None:
    """Print a heading."""
    print(f"\n== {text}\n", flush=True)


def ask(program: Path, arguments: Sequence[object]) -> None:
    """Print a command and run it.

    Raises:
        SystemExit: with the command's exit code, if that is not 0.
    """
    words = [str(program), *map(str, arguments)]
    print(f"$ {program.name} {shlex.join(_short(word) for word in words[1:])}", flush=True)
    code = subprocess.run(words, check=False).returncode
    if code:
        raise SystemExit(code)


def build(bundle: Path, arguments: Sequence[object]) -> Path:
    """Build a bundle in this environment, the dev box's, and return its folder."""
    heading("On the dev box: build a bundle")
    program = Path(sys.executable).parent / "fieldtune-offline"
    ask(program, ["build", *arguments, "--out", bundle, "--overwrite"])
    return bundle


def prepare_device(cache: Path, also: Sequence[str] = ()) -> Path:
    """Make the environment that holds only the device half, show what is in it, and return its ``fieldtune``.

    What the demo starts from then on keeps compiled models and activations in the demo's own cache: a demo may clear
    them, and its user's are none of its business.
    """
    os.environ["FIELDTUNE_CACHE"] = str(cache.resolve())
    heading("Make a second environment, with the device half only")
    environment = environments.device_environment(cache, also=also)
    print(environments.describe(environment))
    return environment / "bin" / "fieldtune"


def _short(word: str) -> str:
    path = Path(word)
    return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else word
