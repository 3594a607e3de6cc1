"""Run the device half's tests where only the device half is installed, on other Pythons and ONNX Runtimes.

    python tests/device.py --python python3.10 --ort 1.16.3 --bundles .cache/bundles --cache .cache

Without --python, every default combination whose interpreter is here. Run with the dev box's Python, which builds the
wheel; the bundles are built beforehand by ``tests/tiny_bundles.py``.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "demo"))

import environments  # noqa: E402  (a script's folder, put on the path above)

COMBINATIONS = (("python3.10", "1.16.3"), ("python3.10", "1.23.2"), ("python3.13", "1.31.1"))
"""The oldest runtime supported, the newest for Python 3.10, and the newest of both."""

TESTS = ("tests/unit/fieldtune", "tests/property", "tests/integration/device")


def passes(python: str, ort: str, *, bundles: Path, cache: Path) -> bool:
    """Run the device half's tests under one interpreter and one ONNX Runtime; return whether all passed."""
    # ONNX Runtime before 1.19 is compiled against NumPy 1.
    numpy = ["numpy<2"] if tuple(map(int, ort.split("."))) < (1, 19) else []
    also = [*numpy, "pytest>=8.3", "hypothesis>=6.100"]
    try:
        environment = environments.device_environment(cache, python, f"onnxruntime=={ort}", also)
    except subprocess.CalledProcessError as error:  # its own lines, printed above, say why
        print(f"no environment: {' '.join(error.cmd)} exited with {error.returncode}", flush=True)
        return False
    print(f"testing the device half in {environment.name}", flush=True)
    command = [str(environment / "bin" / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    variables = {**os.environ, "FIELDTUNE_TEST_BUNDLES": str(bundles.resolve())}
    return subprocess.run(command, cwd=REPOSITORY, env=variables, check=False).returncode == 0


def main() -> int:
    """Run the combinations asked for; return 0 when all passed, 2 when the interpreter asked for is not here."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", help="interpreter, by name or path; without it, every default combination")
    parser.add_argument("--ort", default="1.31.1", help="version of onnxruntime, with --python (default: %(default)s)")
    parser.add_argument("--bundles", type=Path, required=True, help="folder of the tiny bundles")
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps environments")
    arguments = parser.parse_args()
    wanted = [(arguments.python, arguments.ort)] if arguments.python else COMBINATIONS
    failed = []
    for name, ort in wanted:
        python = environments.find_python(name)
        if python is None:
            print(f"{name} with ONNX Runtime {ort}: not tested, no working {name} on PATH or under pyenv", flush=True)
            if arguments.python:
                return 2
        elif not passes(python, ort, bundles=arguments.bundles, cache=arguments.cache):
            failed.append(f"{name} with ONNX Runtime {ort}")
    for combination in failed:
        print(f"failed: {combination}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
