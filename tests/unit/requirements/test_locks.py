"""The lock files: complete, free of hosts, chosen for what is asked for; the documents' tables follow from them."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
FOLDER = REPOSITORY / "requirements"
OFFLINE = REPOSITORY / "offline" / "fieldtune_offline"
SHIPPED = [
    OFFLINE / "ort_training" / "requirements.txt",
    OFFLINE / "accelerators" / "int8" / "quark" / "requirements.txt",
]
BY_VERSION = [FOLDER / "torch.txt", OFFLINE / "accelerators" / "int8" / "quark" / "torch.txt"]
HASHED = sorted({*FOLDER.glob("*.txt"), *SHIPPED} - set(BY_VERSION))


@pytest.fixture
def locks(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import locks

    return locks


def _requirements(file):
    """The logical lines of a requirements file."""
    text = file.read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("file", HASHED, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_everything_has_one_version_and_hashes_and_no_host(file):
    lines = _requirements(file)
    assert lines
    for line in lines:
        assert re.fullmatch(r"[a-z0-9.-]+==[^\s;]+(\s+--hash=sha256:[0-9a-f]{64})+", line), line
    assert "://" not in file.read_text()


@pytest.mark.parametrize("file", BY_VERSION, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_torch_and_what_it_needs_have_versions_alone(file):
    lines = _requirements(file)
    assert all(re.fullmatch(r"[a-z0-9.-]+==[\w.+]+", line) for line in lines)
    # What torch brings for graphics cards is left to the wheel that is found.
    assert not [line for line in lines if line.startswith(("nvidia-", "cuda-", "triton"))]
    assert sum(line.startswith("torch==") for line in lines) == 1


def test_torch_lies_in_what_pyproject_allows_and_no_package_is_in_two_files(locks):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    (torch,) = [line for line in project["project"]["optional-dependencies"]["offline"] if line.startswith("torch")]
    low, high = re.findall(r"(\d+)\.(\d+)", torch.partition(";")[0])
    found = locks.versions(locks.TORCH)["torch"]
    assert tuple(map(int, low)) <= tuple(map(int, found.split(".")[:2])) < tuple(map(int, high))
    assert not locks.versions(locks.TORCH).keys() & locks.versions(locks.DEV.file).keys()
    # What builds the wheel is pinned, too.
    (builds,) = project["build-system"]["requires"]
    assert builds in locks.DEV.asked
    assert {"hatchling", "editables", "setuptools"} <= locks.versions(locks.TORCH, locks.DEV.file).keys()


def test_every_lock_has_its_file_and_every_file_its_lock(locks):
    files = {lock.file for lock in locks.LOCKS}
    assert len(files) == len(locks.LOCKS)
    assert files | {locks.TORCH, FOLDER / "uv.txt"} == set(FOLDER.glob("*.txt"))
    for lock in locks.LOCKS:
        pinned = locks.versions(lock.file)
        for requirement in lock.asked:
            name, _, version = requirement.partition("==")
            name = re.split(r"[<>=]", name)[0]
            assert name in pinned
            assert pinned[name] == (version or pinned[name])


@pytest.mark.parametrize(
    ("version", "asked", "extras", "name", "exact"),
    [
        ("3.11", ["onnxruntime"], ["ort"], "device", True),
        ("3.12", ["onnxruntime"], ["ort"], "device", True),
        ("3.10", ["onnxruntime"], ["ort"], "test-1.23.2", False),  # the lock of 3.11 has versions that 3.10 lacks
        ("3.11", [], [], "device-no-runtime", True),
        ("3.11", ["onnxruntime-training-cpu==1.19.2"], ["ort-training"], "device-training", True),
        ("3.12", ["onnxruntime==1.22.0"], ["ort"], "device", False),
        ("3.14", ["onnxruntime==1.31.1"], ["ort"], "test-1.31.1", False),
    ],
)
def test_the_lock_of_what_is_asked_for_else_the_nearest(locks, version, asked, extras, name, exact):
    lock, found = locks.device_lock(version, asked, extras)
    assert (lock.name, found) == (name, exact)
    assert (lock.asked, lock.extras) == (tuple(asked), tuple(extras))


def test_the_combinations_of_the_device_tests_find_their_own_locks(locks):
    for wanted in locks.DEVICE_TESTS:
        assert locks.device_lock(wanted.python, wanted.asked, wanted.extras) == (wanted, True)


@pytest.fixture
def installed(locks, monkeypatch, tmp_path):
    """The function that installs a lock somewhere else and returns pip's arguments and constraints."""

    def install(where, lock, **arguments):
        calls, pins = [], []

        def note(python, *parts):
            calls.append(parts)
            if "-c" in parts:
                pins.append(Path(parts[parts.index("-c") + 1]).read_text().split())

        monkeypatch.setattr(locks, "_pip", note)
        monkeypatch.setattr(locks, "_output", lambda *command: where)
        monkeypatch.setattr(locks, "_check", lambda python: None)
        locks.install(sys.executable, lock, Path("fieldtune.whl"), **arguments)
        return calls, pins

    return install


def test_where_the_lock_was_made_for_hashes_are_checked_and_nothing_is_worked_out(locks, installed):
    (packages, project), pins = installed("linux x86_64 3.11", locks.LOCKS[1])
    assert {"--no-deps", "--require-hashes", str(FOLDER / "device.txt")} < set(packages)
    assert project == ("--no-deps", "--no-build-isolation", "fieldtune.whl")
    assert pins == []


@pytest.mark.parametrize("where", ["linux aarch64 3.11", "linux x86_64 3.13"])
def test_elsewhere_the_versions_hold(locks, installed, where, capsys):
    (packages, project), (pins, _) = installed(where, locks.LOCKS[1])
    assert packages[2:] == ("onnxruntime",)
    assert project[2:] == ("--no-build-isolation", "fieldtune.whl[ort]")
    assert f"onnxruntime=={locks.versions(locks.LOCKS[1].file)['onnxruntime']}" in pins
    assert f"gives the versions, and no hashes are checked: here is {where}" in capsys.readouterr().out


def test_what_no_lock_is_for_keeps_the_versions_of_the_rest(locks, installed):
    lock, exact = locks.device_lock("3.10", ["onnxruntime==1.18.0", "numpy<2"], ["ort"])
    (packages, _), (pins, _) = installed("linux x86_64 3.10", lock, exact=exact)
    assert packages[2:] == ("onnxruntime==1.18.0", "numpy<2")
    names = {pin.partition("==")[0] for pin in pins}
    assert "safetensors" in names
    assert not names & {"onnxruntime", "numpy"}


@pytest.mark.parametrize("name", ["README.md", "docs/test-other-runtimes-and-arm.md"])
def test_the_documents_say_what_is_tested(locks, name):
    import tested_versions

    file = REPOSITORY / name
    text = file.read_text(encoding="utf-8")
    assert tested_versions.WRITERS[file](text) == text, "run: python requirements/tested_versions.py"
