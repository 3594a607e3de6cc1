"""Which lock is for which environment, and how an environment is filled from one.

    .cache/venv/bin/python requirements/locks.py        # the development environment, by the Python that runs this

Standard library alone: it runs before anything is installed.
"""

import dataclasses
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER = REPOSITORY / "requirements"
TORCH = FOLDER / "torch.txt"

TEST_TOOLS = ("pytest>=8.3", "pytest-xdist>=3.6", "hypothesis>=6.100")
"""What the device half's tests need beside it."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """A file of versions and hashes for one kind of environment on x86-64 Linux.

    Attributes:
        name: of the file, without its ending.
        about: what the environment is for, as the file's first line says it.
        python: major.minor of the interpreter that it is for.
        extras: of fieldtune.
        asked: requirements beside them.
    """

    name: str
    about: str
    python: str = "3.11"
    extras: tuple[str, ...] = ("ort",)
    asked: tuple[str, ...] = ()

    @property
    def file(self) -> Path:
        """Where it lies."""
        return FOLDER / f"{self.name}.txt"


def _test(python: str, ort: str, *also: str) -> Lock:
    training = ort.startswith("onnxruntime-training")
    name = f"test-{'training-' if training else ''}{ort.partition('==')[2]}"
    about = f"the device half's tests with {ort.replace('==', ' ')} (make test, make test-device)"
    extras = ("ort-training",) if training else ("ort",)
    return Lock(name=name, about=about, python=python, extras=extras, asked=(ort, *also, *TEST_TOOLS))


DEV = Lock(
    name="dev",
    about="the development environment (make venv), without torch, and what builds fieldtune's wheel",
    extras=("dev", "demo"),
    # What pyproject.toml's [build-system] names, and what hatchling asks for when it makes an editable installation.
    asked=("hatchling>=1.26", "editables>=0.5"),
)
DEVICE_TESTS = (
    _test("3.10", "onnxruntime==1.16.3", "numpy<2"),  # compiled against NumPy 1, as all before 1.19
    _test("3.10", "onnxruntime==1.23.2"),
    _test("3.13", "onnxruntime==1.31.1"),
    _test("3.11", "onnxruntime-training-cpu==1.19.2"),
)
"""What ``tests/device.py`` runs: the oldest runtime, the newest for Python 3.10, a new one, the last training build."""

LOCKS = (
    DEV,
    Lock(name="device", about="a device's environment (make demo, make demo-chat)", asked=("onnxruntime",)),
    Lock(
        name="device-images",
        about="a device's environment that reads image files (make demo-fpga)",
        asked=("onnxruntime", "pillow"),
    ),
    Lock(
        name="device-training",
        about="a device's environment with the official training build (make bench)",
        extras=("ort-training",),
        asked=("onnxruntime-training-cpu==1.19.2",),
    ),
    Lock(
        name="device-openvino",
        about="a device's environment with OpenVINO's plugin (make test)",
        asked=("onnxruntime==1.31.1", "onnxruntime-ep-openvino==1.8.1"),
    ),
    Lock(name="device-no-runtime", about="a device's environment that lacks ONNX Runtime (make test)", extras=()),
    Lock(
        name="device-two-runtimes",
        about="a device's environment that has ONNX Runtime twice (make test)",
        extras=("ort-training",),
        asked=("onnxruntime-training-cpu==1.19.2", "onnxruntime==1.23.2"),
    ),
    *DEVICE_TESTS,
)


def device_lock(version: str, asked: Sequence[str], extras: Sequence[str]) -> tuple[Lock, bool]:
    """Return the lock for a device's environment, and whether it is for exactly what is asked for.

    Where there is none, it is the one whose versions suit that Python best.

    Args:
        version: of Python, major.minor.
        asked: requirements beside fieldtune.
        extras: of fieldtune.
    """
    for lock in LOCKS[1:]:
        if lock.asked == tuple(asked) and lock.extras == tuple(extras) and _number(lock.python) <= _number(version):
            return lock, True
    by_python = (DEVICE_TESTS[1], LOCKS[1], DEVICE_TESTS[2])
    nearest = [lock for lock in by_python if _number(lock.python) <= _number(version)][-1]
    return dataclasses.replace(nearest, asked=tuple(asked), extras=tuple(extras)), False


def versions(*files: Path) -> dict[str, str]:
    """Return name → version of what locks pin."""
    pins = re.compile(r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)", re.MULTILINE)
    return {name: version for file in files for name, version in pins.findall(file.read_text(encoding="utf-8"))}


def install(python: str, lock: Lock, source: Path, *, editable: bool = False, exact: bool = True) -> None:
    """Install what a lock pins, then fieldtune, with the pip of an environment.

    The lock's hashes hold for its own Python on x86-64 Linux. Elsewhere another set of packages may be needed, which
    pip works out from the requirements; the lock's versions hold there, and its hashes do not.

    Args:
        python: the environment's interpreter.
        lock: what is installed.
        source: fieldtune's wheel, or its source tree.
        editable: whether the source tree is used where it lies.
        exact: whether the lock was made for its requirements; if not, it gives the versions of other packages only.

    Raises:
        subprocess.CalledProcessError: pip failed; it has printed why.
    """
    flags = ["--no-build-isolation", *(["--editable"] if editable else [])]
    here = _output(python, "-c", _WHERE)
    if exact and here == f"linux x86_64 {lock.python}":
        _pip(python, "--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", str(lock.file))
        _pip(python, "--no-deps", *flags, str(source))
        _check(python)
        return
    why = f"here is {here}" if exact else f"it was not made for {', '.join(lock.asked)}"
    print(f"{lock.file.name} gives the versions, and no hashes are checked: {why}", flush=True)
    free = () if exact else {re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower() for requirement in lock.asked}
    pins = {name: version for name, version in versions(TORCH, lock.file).items() if name not in free}
    with tempfile.TemporaryDirectory() as temporary:
        constraints = Path(temporary) / "constraints.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()), encoding="utf-8")
        # What builds fieldtune is among the first, so that the second can do without an environment for building.
        if lock.asked:
            _pip(python, "-c", str(constraints), *lock.asked)
        extras = f"[{','.join(lock.extras)}]" if lock.extras else ""
        _pip(python, "-c", str(constraints), *flags, f"{source}{extras}")


_WHERE = (
    "import platform, sys; machine = platform.machine().lower().replace('amd64', 'x86_64'); "
    "print(sys.platform, machine, '.'.join(map(str, sys.version_info[:2])))"
)


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _pip(python: str, *arguments: str) -> None:
    """Have pip install, which prints errors only."""
    subprocess.run([python, "-m", "pip", "install", "-qq", *arguments], check=True)


def _check(python: str) -> None:
    """Have pip look for what an installed package needs and the lock lacks."""
    done = subprocess.run([python, "-m", "pip", "check"], check=False, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout, end="", flush=True)
        done.check_returncode()


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Fill the development environment whose Python this is."""
    print("installing torch …", flush=True)
    _pip(sys.executable, "--only-binary", ":all:", "-r", str(TORCH))
    print("installing fieldtune with the development and demo extras …", flush=True)
    install(sys.executable, DEV, REPOSITORY, editable=True)


if __name__ == "__main__":
    main()
