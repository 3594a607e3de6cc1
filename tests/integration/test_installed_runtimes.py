"""The wheel where ONNX Runtime is installed twice, or not at all: every command says so in one line, with the fix."""

import importlib.util
import platform
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("torch")  # of the development environment, which builds the wheel

from fieldtune_offline.environments import find_python

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
TRAINING, STOCK = "onnxruntime-training-cpu==1.19.2", "onnxruntime==1.23.2"


@pytest.fixture(scope="module")
def environments():
    spec = importlib.util.spec_from_file_location("environments", REPOSITORY / "demo" / "environments.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def neither(environments, cache):
    return environments.device_environment(cache, ort=None)


@pytest.fixture(scope="module")
def both(environments, cache, lacks):
    python = next(filter(None, map(find_python, ("python3.11", "python3.12"))), None)
    if python is None or platform.machine().lower() not in ("x86_64", "amd64"):
        lacks("training-build", f"{TRAINING} has wheels for 64-bit x86 and Python up to 3.12 alone")
    return environments.device_environment(cache, python, TRAINING, [STOCK])


def commands(bundle, rows, out):
    return {
        "inspect": ["inspect", bundle],
        "train": ["train", bundle, "--data", rows, "--out", out],
        "evaluate": ["evaluate", bundle, "--data", rows],
        "run": ["run", bundle, "a good film"],
        "profiles": ["profiles"],
        "import-checkpoint": ["import-checkpoint", bundle, rows, "--out", out],
    }


def run(environment, *arguments):
    command = [str(environment / "bin" / "fieldtune"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


CASES = {
    "neither": ("ONNX Runtime is not installed; pip install 'fieldtune[ort]'",),
    "both": (
        "ONNX Runtime is installed 2 times (onnxruntime 1.23.2, onnxruntime-training-cpu 1.19.2)",
        "run: pip uninstall onnxruntime onnxruntime-training-cpu, then install the one you want",
    ),
}


@pytest.mark.parametrize("which", CASES)
def test_every_command_says_what_is_installed_and_how_to_repair_it(which, request, tiny_bundles, tmp_path):
    environment = request.getfixturevalue(which)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a good film", "label": "positive"}\n')
    for name, arguments in commands(tiny_bundles / "tiny-classifier", rows, tmp_path / "out").items():
        found = run(environment, *arguments)
        assert (found.returncode, found.stdout) == (1, ""), name
        (line,) = found.stderr.splitlines()
        assert line.startswith("fieldtune: error: ONNX Runtime is ")
        for words in CASES[which]:
            assert words in line
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl"}


@pytest.mark.parametrize("which", CASES)
def test_help_version_and_wrong_usage_need_no_runtime(which, request):
    environment = request.getfixturevalue(which)
    assert run(environment, "--version").stdout.startswith("fieldtune ")
    for arguments in (("--help",), ("train", "--help"), ("profiles", "--help")):
        found = run(environment, *arguments)
        assert (found.returncode, found.stderr) == (0, "")
        assert "fieldtune" in found.stdout
    assert run(environment, "train").returncode == 2
