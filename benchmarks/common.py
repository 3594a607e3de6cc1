"""What the benchmarks share: their flags, the bundles they run on, measured child processes, and results as tables."""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from fieldtune.hardware import HardwareProfile
from fieldtune_offline import BuildSpec

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.append(str(REPOSITORY / "demo"))
THREADS = 2
"""Of every contender, so that none gains by taking more cores than another."""

_PACKAGES = ("fieldtune", "onnxruntime", "numpy", "torch", "transformers", "peft")
# Linux counts the largest resident set in kibibytes, macOS in bytes (getrusage(2) of each).
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


# --- the command line ---


def parser(docstring: str | None) -> argparse.ArgumentParser:
    """Return a parser with the flags of every benchmark; the module's docstring is its description and examples."""
    made = argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--cache", type=Path, default=Path(".cache"), help="folder for downloads, bundles and results")
    made.add_argument("--quick", action="store_true", help="only see that it runs: the figures mean little")
    return made


# --- what is measured on ---


def asset(name: str, cache: Path) -> Path:
    """Return the folder of a model or data set of ``demo/assets.py``, fetched and converted where it is not there."""
    return _in_child(_fetch, name, cache.resolve())


def bundle(name: str, spec: BuildSpec) -> Path:
    """Return the bundle of a spec, built where it is not there from the same spec, settings and sources.

    Args:
        name: says in one word what is built, for the progress line.
        spec: what to build, and where.
    """
    half = (REPOSITORY / "offline" / "fieldtune_offline").rglob("*.py")
    sources = [path for path in sorted(half) if "cli" not in path.parts]
    settings = [] if spec.method.peft_config is None else [spec.method.peft_config]
    profiles = sorted((REPOSITORY / "hw_profiles").glob("*.toml")) if spec.target else []
    read = [Path(path).read_bytes() for path in (*sources, *settings, *profiles)]
    key = hashlib.sha256(b"".join([repr(spec).encode(), *read])).hexdigest()
    stamp = spec.out.with_name(f"{spec.out.name}.key")
    if not (spec.out.is_dir() and stamp.is_file() and stamp.read_text() == key):
        say(f"building the bundle {name} …")
        stamp.unlink(missing_ok=True)
        _in_child(_build, dataclasses.replace(spec, overwrite=True))
        stamp.write_text(key)
    return spec.out


def profile_text(runtime: str) -> str:
    """Return the text of a hardware profile with these lines of its table ``runtime`` and nothing else to choose."""
    return f'format_version = "1.1"\nname = "measured"\ntitle = "measured"\nsource = []\n[runtime]\n{runtime}\n'


def on_threads(profile: HardwareProfile, threads: int = THREADS) -> HardwareProfile:
    """Return a profile with the threads of every contender."""
    return dataclasses.replace(profile, runtime=dataclasses.replace(profile.runtime, threads=threads))


def interpreter(runtime: str | None, cache: Path) -> Path:
    """Return this Python, or that of an environment with the device half alone and another ONNX Runtime."""
    if runtime is None:
        return Path(sys.executable)
    return Path(_in_child(_device_python, runtime, cache.resolve()))


def _device_python(runtime: str, cache: Path) -> str:
    import environments

    with contextlib.redirect_stdout(sys.stderr):
        return str(environments.device_environment(cache, ort=runtime) / "bin" / "python")


def _in_child(
    function: Callable[_Parameters, _Result], *args: _Parameters.args, **kwargs: _Parameters.kwargs
) -> _Result:
    """Run a function in a process of its own.

    Linux counts what a process held before it became another program towards the peak of that program, so a benchmark
    that spawns contenders must itself stay small: torch is never loaded into it.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args, **kwargs).result()


def _fetch(name: str, cache: Path) -> Path:
    import assets

    with contextlib.redirect_stdout(sys.stderr):  # its progress is no part of the tables
        return assets.fetch(name, cache)


def _build(spec: BuildSpec) -> None:
    import warnings

    from fieldtune_offline import build_bundle

    warnings.simplefilter("ignore")
    build_bundle(spec)


# --- measured processes ---


class Child:
    """A process that answers each line it is given with a line of JSON, the first one without being asked.

    Attributes:
        first: its first answer.
        start_s: seconds from before the process was started until that answer.
    """

    def __init__(self, command: Sequence[object]) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the child)
        started = time.perf_counter()
        self._process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        self.first = self._answer()
        self.start_s = time.perf_counter() - started

    def ask(self, line: str) -> Any:
        """Give a line, wait for the answer and return it."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> float:
        """End the process; return the largest resident set that it had, in megabytes (10⁶ bytes)."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._check()
        self._errors.close()
        return usage.ru_maxrss * _RSS_UNIT / 1e6

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._check()
            raise SystemExit(f"{self._process.args!r} ended without an answer")
        return json.loads(line)

    def _check(self) -> None:
        if self._process.returncode:
            self._errors.seek(0)
            raise SystemExit(f"{self._process.args!r} failed:\n{self._errors.read()}")


# --- results ---


@dataclasses.dataclass(frozen=True, slots=True)
class Spread:
    """The least, the middle and the largest of some figures."""

    least: float
    median: float
    largest: float

    @classmethod
    def of(cls, figures: Iterable[float]) -> "Spread":
        """Return the spread of at least one figure."""
        values = list(figures)
        return cls(min(values), statistics.median(values), max(values))

    def text(self, digits: int) -> str:
        """Return ``least / median / largest``."""
        return " / ".join(f"{figure:.{digits}f}" for figure in (self.least, self.median, self.largest))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return the spread of the quotients of figures that were taken one right after the other."""
    return Spread.of(one / other for one, other in zip(ours, theirs, strict=True))


def machine(threads: int = THREADS) -> dict[str, str]:
    """Return what a result depends on beside the code: processor, cores, Python and package versions."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(os.cpu_count() or "unknown"),
        "threads": str(threads),
        "python": platform.python_version(),
        **versions,
    }


def machine_line(threads: int = THREADS) -> str:
    """Return ``machine()`` as a line for people."""
    return ", ".join(f"{name} {value}" for name, value in machine(threads).items())


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is aligned to the left, the others to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])


def save(name: str, cache: Path, result: dict[str, Any], threads: int = THREADS) -> Path:
    """Write a result, with the machine, into ``CACHE/benchmarks/NAME.json`` and return the file."""
    file = cache.resolve() / "benchmarks" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"benchmark": name, "machine": machine(threads), **result}, indent=1) + "\n")
    return file


def say(line: str) -> None:
    """Print progress where it does not mix with the table."""
    print(line, file=sys.stderr, flush=True)
