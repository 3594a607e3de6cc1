"""Environments that hold only the device half: the built wheel and one ONNX Runtime, nothing of the dev box."""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "requirements"))

import locks  # noqa: E402  (of the folder put on the path above)


def build_wheel(cache: Path) -> Path:
    """Build fieldtune's wheel from this source tree into ``cache/wheels`` and return the file.

    The same sources give the same bytes, so the wheel's digest tells whether an environment is up to date. What builds
    it is the development environment's, which the lock pins.
    """
    folder = cache.resolve() / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as temporary:
        _pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", temporary, str(REPOSITORY))
        (fresh,) = Path(temporary).glob("fieldtune-*.whl")
        return fresh.replace(folder / fresh.name)


def device_environment(
    cache: Path, python: str = sys.executable, ort: str | None = "onnxruntime", also: Sequence[str] = ()
) -> Path:
    """Return the folder of a virtual environment with the wheel and one ONNX Runtime; its commands are in ``bin/``.

    It lies in ``cache/environments`` and is made again when the wheel, the interpreter or what is pinned has changed.
    What is asked for finds its lock in ``requirements/locks.py``; other requirements take the versions of the nearest.

    Args:
        cache: the cache's root.
        python: the interpreter it is made from.
        ort: requirement of the runtime: ``onnxruntime``, ``onnxruntime==1.16.3``, ``onnxruntime-training-cpu==1.19.2``;
            None for none at all.
        also: further requirements, for tests.
    """
    wheel = build_wheel(cache)
    version = _output(python, "-c", "import platform; print(platform.python_version())").strip()
    training = ort is not None and ort.startswith("onnxruntime-training")
    extras = () if ort is None else ("ort-training",) if training else ("ort",)
    lock, exact = locks.device_lock(".".join(version.split(".")[:2]), [*([ort] if ort else []), *also], extras)
    names = [f"py{version}", ort or "no-onnxruntime", *(["with", *also] if also else [])]
    folder = cache.resolve() / "environments" / re.sub(r"[^\w.]+", "-", "-".join(names))
    stamp = folder / "installed"
    digests = (hashlib.sha256(file.read_bytes()).hexdigest() for file in (wheel, lock.file))
    identity = "\n".join([*digests, *lock.extras, *lock.asked]) + "\n"
    if not (stamp.is_file() and stamp.read_text() == identity):
        print(
            f"installing {wheel.name}, {', '.join([ort or 'no runtime', *also])} for Python {version} into {folder} …",
            flush=True,
        )
        # Scripts hold their environment's path, so it is made in place; the stamp comes last.
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        locks.install(str(folder / "bin" / "python"), lock, wheel, exact=exact)
        stamp.write_text(identity)
    return folder


def describe(environment: Path) -> str:
    """Return what ``pip list`` says of an environment, and the size of what fieldtune brought into it."""
    packages = _output(str(environment / "bin" / "python"), "-m", "pip", "list", "--format=columns")
    return f"{packages}\nsite-packages without pip and setuptools: {site_packages_mb(environment):.0f} MB"


def site_packages_mb(environment: Path) -> float:
    """Return the size in megabytes (10⁶ bytes) of an environment's packages, pip and setuptools left out."""
    (site,) = environment.glob("lib/python3*/site-packages")
    tools = re.compile(r"(pip|setuptools|pkg_resources|_distutils_hack)\b|distutils-precedence")
    tops = [top for top in site.iterdir() if not tools.match(top.name)]
    files = [file for top in tops for file in ([top] if top.is_file() else top.rglob("*")) if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def _pip(python: str, *arguments: str) -> None:
    """Run pip, which prints errors only."""
    subprocess.run([python, "-m", "pip", arguments[0], "-qq", *arguments[1:]], check=True)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
