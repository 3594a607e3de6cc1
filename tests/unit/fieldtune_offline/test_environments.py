import hashlib
import stat
import subprocess
import sys
import zipfile

import pytest

from fieldtune.errors import ExportError
from fieldtune_offline.environments import Environment, environment_python

HERE = sys.version_info[:2]
VERSION = f"{HERE[0]}.{HERE[1]}"


@pytest.fixture
def requirements(tmp_path, monkeypatch):
    """The function that writes a requirements file; environments go to a cache of the test's own, pip goes nowhere."""
    monkeypatch.setenv("FIELDTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    def write(text):
        path = tmp_path / "requirements.txt"
        path.write_text(text)
        return path

    return write


def things(pins, *versions, first=None):
    return Environment(
        name="things",
        requirements=pins,
        versions=versions or (HERE,),
        wheels_of="things",
        advice="look elsewhere",
        first=first,
    )


def _wheel(folder):
    """A wheel that is a package of one line."""
    path = folder / "tinything-1.0-py3-none-any.whl"
    info = "tinything-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tinything.py", "answer = 42\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinything\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"tinything.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


def test_an_environment_is_made_once_and_again_when_its_pins_change(requirements, tmp_path):
    pins = requirements(f"{_wheel(tmp_path)}\n")
    said = []
    python = environment_python(things(pins), said.append)
    assert len(said) == 1
    assert said[0].startswith("making an environment for things in ")
    folder = python.parents[1]
    assert folder.parent == tmp_path / "cache" / "environments"
    assert folder.name.startswith(f"things-py{VERSION}-")
    program = "import sys, tinything; print(tinything.answer, sys.prefix)"
    found = subprocess.run([python, "-I", "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["42", str(folder)]
    marked = folder / "marked"
    marked.write_text("")
    assert environment_python(things(pins), said.append) == python
    assert len(said) == 1
    assert marked.exists()
    # An installation that was cut off, as another name's, is no environment.
    (folder / "fieldtune.json").unlink()
    assert environment_python(things(pins), said.append) == python
    assert len(said) == 2
    assert not marked.exists()
    other = environment_python(things(requirements(f"# other pins\n{_wheel(tmp_path)}\n")), said.append)
    assert other != python
    assert len(said) == 3
    assert sorted(path.name for path in folder.parent.iterdir()) == sorted([folder.name, other.parents[1].name])


def test_what_comes_first_is_installed_without_hashes_and_the_rest_with_them(requirements, tmp_path):
    wheel, first = _wheel(tmp_path), tmp_path / "first.txt"
    first.write_text(f"{wheel}\n")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    pins = requirements(f"tinything==1.0 --hash=sha256:{digest}\n")
    python = environment_python(things(pins, first=first), lambda _: None)
    assert subprocess.run([python, "-I", "-c", "import tinything"], check=False).returncode == 0
    # Without it there is no index to take the rest from, and another first file is another environment.
    with pytest.raises(ExportError, match="No matching distribution found for tinything"):
        environment_python(things(pins), lambda _: None)
    first.write_text(f"# changed\n{wheel}\n")
    assert environment_python(things(pins, first=first), lambda _: None) != python
    # A wheel with another digest is refused.
    with pytest.raises(ExportError, match=f"Got +{digest}; look elsewhere"):
        environment_python(things(requirements(f"{wheel} --hash=sha256:{'0' * 64}\n")), lambda _: None)


def test_requirements_that_cannot_be_installed_are_named_and_leave_nothing(requirements, tmp_path):
    pins = requirements("nothing-of-this-name==1.0\n")
    with pytest.raises(ExportError) as caught:
        environment_python(things(pins), lambda _: None)
    message = str(caught.value)
    assert message.startswith("the environment for things cannot be made: ")
    assert "No matching distribution found for nothing-of-this-name==1.0" in message
    assert message.endswith("; look elsewhere")
    assert "\n" not in message
    assert list((tmp_path / "cache" / "environments").iterdir()) == []


def _python(folder, name, body):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_no_fitting_python_is_an_error_that_says_what_was_found(requirements, tmp_path):
    pins = requirements("")
    candidates = [
        _python(tmp_path, "python3.13", "echo 3.13"),
        _python(tmp_path, "python3.9", "echo 3.9"),
        _python(tmp_path, "shim", "echo not active >&2; exit 127"),
        str(tmp_path / "absent"),
    ]
    with pytest.raises(ExportError) as caught:
        environment_python(things(pins, (3, 12), (3, 11)), lambda _: None, candidates)
    assert str(caught.value) == (
        "things needs Python 3.11 or 3.12, for which there are wheels of things, and found "
        "3.13, 3.9; install one of them and put it on PATH"
    )
    with pytest.raises(ExportError, match="and found none; install one"):
        environment_python(things(pins, (3, 11)), lambda _: None, [str(tmp_path / "absent")])
    assert not (tmp_path / "cache").exists()


def test_the_first_fitting_interpreter_is_taken(requirements, tmp_path):
    log = tmp_path / "log"
    candidates = [
        _python(tmp_path, "old", "echo 3.9"),
        _python(
            tmp_path, "first", f'case "$1" in -c) echo 3.11;; *) echo "$@" > {log}; echo no space >&2; exit 1;; esac'
        ),
        _python(tmp_path, "second", "echo 3.11"),
    ]
    with pytest.raises(ExportError, match=r"first -m venv .* said: no space;"):
        environment_python(things(requirements(""), (3, 11)), lambda _: None, candidates)
    assert log.read_text().startswith("-m venv ")


def test_interpreters_are_found_on_path_and_under_pyenv(requirements, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    fails = 'case "$1" in -c) echo 3.11;; *) echo no space >&2; exit 1;; esac'
    folder = tmp_path / "pyenv" / "versions" / "3.11.9" / "bin"
    folder.mkdir(parents=True)
    found = _python(folder, "python3.11", fails)
    # pyenv's shim on PATH does not run where its version is not active.
    _python(tmp_path, "python3.11", "exit 127")
    with pytest.raises(ExportError, match=f"cannot be made: {found} -m venv"):
        environment_python(things(requirements(""), (3, 11)), lambda _: None)
