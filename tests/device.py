"""Run the device half's tests where only the device half is installed, on other Pythons and ONNX Runtimes.

    python tests/device.py --python python3.10 --ort 1.16.3 --bundles .cache/bundles --cache .cache
    python tests/device.py --training --bundles .cache/bundles --cache .cache

Without --python, every default combination whose interpreter is here; with --training, ONNX Runtime's training build
alone. Run with the dev box's Python, which builds the wheel; the bundles are built beforehand by
``tests/tiny_bundles.py`` and, for the training build, ``tests/real_bundles.py``.
"""

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "demo"))

import environments  # noqa: E402  (a script's folder, put on the path above)
import locks  # noqa: E402  (of the folder that environments puts on the path)
from fieldtune_offline.environments import find_python  # noqa: E402

COMBINATIONS = tuple((f"python{lock.python}", lock.asked[0]) for lock in locks.DEVICE_TESTS[:-1])
"""Interpreters and runtimes, which ``requirements/locks.py`` lists and locks."""

TRAINING = locks.DEVICE_TESTS[-1].asked[0]
"""The last training build, which has wheels for 64-bit x86 and Python up to 3.12, and no LoraAdapter."""
TRAINING_PYTHONS = ("python3.11", "python3.12")

SIDE_BY_SIDE = ("-n", "2")
TESTS = ("tests/unit/fieldtune", "tests/property", "tests/integration/device")


def passes(python: str, ort: str, *, bundles: Path, cache: Path) -> bool:
    """Run the device half's tests under one interpreter and one ONNX Runtime; return whether all passed."""
    # ONNX Runtime before 1.19 is compiled against NumPy 1.
    numpy = ["numpy<2"] if tuple(map(int, ort.partition("==")[2].split("."))) < (1, 19) else []
    also = [*numpy, *locks.TEST_TOOLS]
    try:
        environment = environments.device_environment(cache, python, ort, also)
    except subprocess.CalledProcessError as error:  # its own lines, printed above, say why
        print(f"no environment: {' '.join(error.cmd)} exited with {error.returncode}", flush=True)
        return False
    print(f"testing the device half in {environment.name}", flush=True)
    command = [
        str(environment / "bin" / "python"),
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *SIDE_BY_SIDE,
        *TESTS,
    ]
    variables = {**os.environ, "FIELDTUNE_TEST_BUNDLES": str(bundles.resolve())}
    return subprocess.run(command, cwd=REPOSITORY, env=variables, check=False).returncode == 0


def training_combination() -> tuple[str, str] | None:
    """Return the interpreter and the requirement of the training build, or None after a line that says why not."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        print(f"{TRAINING}: not tested, it has no wheel for {platform.machine()}", flush=True)
        return None
    python = next((name for name in TRAINING_PYTHONS if find_python(name)), None)
    if python is None:
        names = " and no ".join(TRAINING_PYTHONS)
        print(f"{TRAINING}: not tested, no working {names} on PATH or under pyenv", flush=True)
        return None
    return python, TRAINING


def main() -> int:
    """Run the combinations asked for; return 0 when all passed, 2 when the interpreter asked for is not here."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", help="interpreter, by name or path; without it, every default combination")
    parser.add_argument(
        "--ort", default="1.31.1", help="version of onnxruntime, or a whole requirement, with --python (%(default)s)"
    )
    parser.add_argument("--training", action="store_true", help=f"{TRAINING} alone")
    parser.add_argument("--bundles", type=Path, required=True, help="folder of the bundles")
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps environments")
    arguments = parser.parse_args()
    if arguments.python:
        ort = arguments.ort if "==" in arguments.ort else f"onnxruntime=={arguments.ort}"
        wanted = [(arguments.python, ort)]
    else:
        training = training_combination()
        wanted = [*(() if arguments.training else COMBINATIONS), *([training] if training else [])]
    failed = []
    for name, ort in wanted:
        python = find_python(name)
        if python is None:
            print(f"{name} with {ort}: not tested, no working {name} on PATH or under pyenv", flush=True)
            if arguments.python:
                return 2
        elif not passes(python, ort, bundles=arguments.bundles, cache=arguments.cache):
            failed.append(f"{name} with {ort}")
    for combination in failed:
        print(f"failed: {combination}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
