"""A lock that one holder at a time has, and that is free again however its process ends."""

import signal
import subprocess
import sys

import pytest

from fieldtune.errors import OutputError
from fieldtune.files.file_lock import FileLock

HOLD = """
import sys
from pathlib import Path
from fieldtune.files.file_lock import FileLock
lock = FileLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "lock"


@pytest.fixture
def holder(path):
    """The function that starts a process that holds the lock."""
    started = []

    def start():
        path.parent.mkdir(exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_one_at_a_time(path):
    path.parent.mkdir()
    first = FileLock(path)
    with pytest.raises(OutputError, match=r"folder: in use by another process"):
        FileLock(path)
    first.close()
    first.close()
    second = FileLock(path)
    second.close()
    assert path.read_bytes() == b""


def test_another_process_holds_it_until_it_is_killed(path, holder):
    process = holder()
    with pytest.raises(OutputError, match=r"folder: in use by another process"):
        FileLock(path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    FileLock(path).close()


def test_a_lock_whose_name_is_gone_keeps_nobody_out(path):
    path.parent.mkdir()
    old = FileLock(path)
    path.unlink()
    new = FileLock(path)
    with pytest.raises(OutputError, match="in use"):
        FileLock(path)
    old.close()
    new.close()


def test_a_lock_that_cannot_be_made(path, tmp_path):
    with pytest.raises(OutputError, match=r"folder: cannot be locked \(.*No such file"):
        FileLock(path)
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="cannot be locked"):
        FileLock(path)
    assert not (tmp_path / "elsewhere").exists()
