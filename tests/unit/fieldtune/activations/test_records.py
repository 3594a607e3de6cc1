import hashlib
import os
import resource
import shutil
import stat
import subprocess
import sys
import time

import pytest

from fieldtune.activations.records import DATA_NAME, ENTRY_BYTES, INDEX_NAME, RecordFiles
from fieldtune.errors import OutputError

HEADER_BYTES = 8
WRITER = """
import hashlib, sys
from pathlib import Path
from fieldtune.activations.records import RecordFiles

files = RecordFiles(Path(sys.argv[1]))
number = len(files)
while True:
    batch = {}
    for _ in range(3):
        digest = hashlib.sha256(str(number).encode()).digest()
        batch[digest] = digest * 5000
        number += 1
    files.append(batch)
    print(number, flush=True)
"""


def digest(name):
    return hashlib.sha256(str(name).encode()).digest()


RECORDS = {digest(name): content for name, content in (("a", b"12345"), ("b", b"1234567"), ("c", b"123"))}


@pytest.fixture
def folder(tmp_path):
    files = RecordFiles(tmp_path)
    files.append(RECORDS)
    files.close()
    return tmp_path


def contents(path, digests=RECORDS):
    files = RecordFiles(path)
    found = {key: files.read(key) for key in digests if key in files}
    assert len(files) == len(found)
    files.close()
    return found


def test_records_are_there_when_the_files_are_opened_again(folder):
    assert contents(folder) == RECORDS
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sizes == {DATA_NAME: 15, INDEX_NAME: HEADER_BYTES + 3 * ENTRY_BYTES, "lock": 0}


def test_only_the_owner_can_read_them(folder):
    for path in folder.iterdir():
        path.chmod(0o644)
    files = RecordFiles(folder)
    files.close()
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_a_record_that_is_there_is_not_written_again(folder):
    files = RecordFiles(folder)
    before = files.size_bytes
    files.append({digest("a"): b"other"})
    assert (files.size_bytes, files.read(digest("a"))) == (before, b"12345")
    files.close()


def test_an_index_cut_anywhere_keeps_its_whole_entries(folder, tmp_path_factory):
    whole = (folder / INDEX_NAME).stat().st_size
    for size in range(whole + 1):
        copy = tmp_path_factory.mktemp("cut") / "folder"
        shutil.copytree(folder, copy)
        os.truncate(copy / INDEX_NAME, size)
        count = max(0, size - HEADER_BYTES) // ENTRY_BYTES
        assert contents(copy) == dict(list(RECORDS.items())[:count])
        _goes_on(copy)


def test_records_cut_anywhere_keep_what_is_whole(folder, tmp_path_factory):
    for size in range(16):
        copy = tmp_path_factory.mktemp("cut") / "folder"
        shutil.copytree(folder, copy)
        os.truncate(copy / DATA_NAME, size)
        count = sum(size >= end for end in (5, 12, 15))
        assert contents(copy) == dict(list(RECORDS.items())[:count])
        _goes_on(copy)


def _goes_on(folder):
    files = RecordFiles(folder)
    files.append({digest("new"): b"new record", **RECORDS})
    files.close()
    more = {digest("new"): b"new record", **RECORDS}
    assert contents(folder, more) == more


def test_an_index_with_any_byte_altered_gives_no_wrong_record(folder, tmp_path_factory):
    index = (folder / INDEX_NAME).read_bytes()
    for position in range(HEADER_BYTES, len(index)):
        copy = tmp_path_factory.mktemp("altered") / "folder"
        shutil.copytree(folder, copy)
        altered = bytearray(index)
        altered[position] ^= 0x10
        (copy / INDEX_NAME).write_bytes(altered)
        found = contents(copy)
        assert len(found) == 2
        assert found.items() <= RECORDS.items()


def test_the_files_of_another_release_are_dropped_with_a_warning(folder):
    index = bytearray((folder / INDEX_NAME).read_bytes())
    index[7] += 1
    (folder / INDEX_NAME).write_bytes(index)
    with pytest.warns(UserWarning, match="activations of another release; they are dropped"):
        assert contents(folder) == {}
    assert contents(folder) == {}
    assert (folder / DATA_NAME).stat().st_size == 0


def test_a_damaged_record_is_dropped_and_heals_in_its_place(folder):
    data = bytearray((folder / DATA_NAME).read_bytes())
    data[6] ^= 1
    (folder / DATA_NAME).write_bytes(data)
    files = RecordFiles(folder)
    size = (folder / DATA_NAME).stat().st_size
    with pytest.warns(UserWarning, match="a damaged record; it is computed again"):
        assert files.read(digest("b")) is None
    assert (digest("b") in files, files.read(digest("b"))) == (False, None)
    files.append({digest("b"): b"1234567"})
    assert files.read(digest("b")) == b"1234567"
    files.close()
    assert (folder / DATA_NAME).stat().st_size == size
    assert contents(folder) == RECORDS


def test_one_process_at_a_time(folder):
    files = RecordFiles(folder)
    code = "import sys; from pathlib import Path; from fieldtune.activations.records import RecordFiles\n"
    code += "RecordFiles(Path(sys.argv[1]))"
    run = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert f"OutputError: {folder}: in use by another process" in run.stderr
    with pytest.raises(OutputError, match="in use by another process"):
        RecordFiles(folder)
    files.close()
    assert contents(folder) == RECORDS


def test_a_system_without_locks_is_said(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(OutputError, match="cannot be locked"):
        RecordFiles(folder)


@pytest.mark.parametrize("delay_s", [0.0, 0.003, 0.011, 0.023])
def test_a_writer_that_is_killed_leaves_whole_records(tmp_path, delay_s):
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, text=True)
        promised = int(process.stdout.readline())
        time.sleep(delay_s)
        process.kill()
        # What it said before it died had been written before.
        promised = max([promised, *(int(line) for line in process.stdout if line.endswith("\n"))])
        process.stdout.close()
        process.wait()
        expected = {digest(number): digest(number) * 5000 for number in range(promised + 6)}
        found = contents(tmp_path, expected)
        assert len(found) >= promised
        assert found.items() <= expected.items()


def test_a_disk_that_is_full_keeps_what_was_there(folder):
    files = RecordFiles(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            files.append({digest("d"): b"d" * 900, digest("e"): b"e" * 900})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (folder / DATA_NAME).stat().st_size == 15
    assert digest("d") not in files
    files.append({digest("d"): b"d"})
    files.close()
    assert contents(folder, [*RECORDS, digest("d"), digest("e")]) == {**RECORDS, digest("d"): b"d"}
