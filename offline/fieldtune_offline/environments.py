"""Environments of their own, for packages that cannot live beside the dev box's: made once, kept in a cache."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fieldtune.errors import ExportError
from fieldtune.files import cache_folder
from fieldtune_offline.progress import Report

_STAMP = "fieldtune.json"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """Packages that live by themselves.

    Attributes:
        name: what they are for.
        requirements: a file in pip's format with all packages, which pins them; with hashes or without.
        versions: of Python that they have wheels for, the preferred one last.
        wheels_of: what there are no wheels of for other versions.
        advice: what to know where they cannot be installed.
        first: a file of what is installed before, by versions alone and with all that it needs: torch, whose wheels
            differ by index and platform, while pip checks the hashes of all that it installs at once or of nothing.
    """

    name: str
    requirements: Path
    versions: Sequence[tuple[int, int]]
    wheels_of: str
    advice: str
    first: Path | None = None


def environment_python(environment: Environment, report: Report, candidates: Sequence[str] | None = None) -> Path:
    """Return the interpreter of an environment, made if it is not there yet.

    Args:
        environment: what it holds.
        report: told before the minutes of an installation.
        candidates: interpreters, by name or path; those of its versions on PATH and under pyenv, and this one, if None.

    Raises:
        ExportError: no such Python, or the requirements cannot be installed; the message says what was tried.
    """
    python, version = _find_python(environment, candidates)
    pins = _pins(environment)
    digest = hashlib.sha256(f"{version}\n{pins}".encode()).hexdigest()[:12]
    folder = cache_folder().resolve() / "environments" / f"{environment.name}-py{version}-{digest}"
    interpreter = folder / "bin" / "python"
    if (folder / _STAMP).is_file() and _version(str(interpreter)) == version:
        return interpreter
    report(f"making an environment for {environment.name} in {folder}")
    _make(environment, python, folder)
    return interpreter


def find_python(name: str) -> str | None:
    """Return the interpreter called ``python3.10`` (or its path), from PATH or from pyenv, that runs; else None."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    # A pyenv shim on PATH fails for versions that are not active, so every candidate is tried.
    for candidate in (shutil.which(name), *map(str, sorted(pyenv.glob(f"*/bin/{Path(name).name}"), reverse=True))):
        if candidate is not None and _version(candidate):
            return candidate
    return None


def _make(environment: Environment, python: str, folder: Path) -> None:
    """Install beside the place and rename, so that an interrupted or a second installation leaves nothing half done."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _run(environment, python, "-m", "venv", str(staging))
        install = (str(staging / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check")
        if environment.first is not None:
            _run(environment, *install, "-r", str(environment.first))
        # No source archives: what builds them would come unpinned.
        _run(environment, *install, "--no-deps", "--only-binary", ":all:", "-r", str(environment.requirements))
        # Scripts in bin/ keep the old path; only the interpreter is used, and that finds its packages by its own place.
        (staging / _STAMP).write_text(json.dumps({"requirements": _pins(environment)}))
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _pins(environment: Environment) -> str:
    files = [environment.requirements, *([environment.first] if environment.first else [])]
    return "".join(file.read_text(encoding="utf-8") for file in files)


def _run(environment: Environment, *command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        said = f"{' '.join(command[:4])} … said: {' '.join(lines[-2:])[-400:]}"
        raise ExportError(f"the environment for {environment.name} cannot be made: {said}; {environment.advice}")


def _find_python(environment: Environment, candidates: Sequence[str] | None) -> tuple[str, str]:
    versions = environment.versions
    wanted = {f"{major}.{minor}" for major, minor in versions}
    if candidates is None:
        others = (find_python(f"python{major}.{minor}") for major, minor in reversed(versions))
        candidates = [sys.executable, *filter(None, others)]
    seen = []
    for candidate in candidates:
        version = _version(candidate)
        if version in wanted:
            return candidate, version
        if version:
            seen.append(version)
    need = f"Python {' or '.join(sorted(wanted))}, for which there are wheels of {environment.wheels_of}"
    there = ", ".join(dict.fromkeys(seen)) or "none"
    raise ExportError(f"{environment.name} needs {need}, and found {there}; install one of them and put it on PATH")


def _version(python: str) -> str:
    """Return major.minor of an interpreter that runs and can make environments; else an empty string."""
    path = shutil.which(python)
    if path is None:
        return ""
    program = "import ensurepip, sys, venv; print(f'{sys.version_info[0]}.{sys.version_info[1]}')"
    done = subprocess.run([path, "-c", program], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
