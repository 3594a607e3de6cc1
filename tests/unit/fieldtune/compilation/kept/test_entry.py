"""entry.json: what is written is read, and whatever was changed is told with its key."""

import json

import pytest

from fieldtune.bundle.manifest import FileSpec
from fieldtune.compilation.kept.entry import ENTRY_NAME, check_files, file_names, list_files, read_entry, write_entry
from fieldtune.errors import CompileError, UnsupportedFormat
from mutations import faults_unnamed, replaced

pytest.importorskip("onnxruntime")


CONFIG = ("key", "options", "config_file")
ALTERED = "{}: its key has another identity than it states; it was altered"


@pytest.fixture
def folder(tmp_path, entry):
    """An entry of two files, and entry.json beside them."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "compiled.xmodel").write_bytes(b"compiled")
    (tmp_path / "cache" / "context.json").write_bytes(b"{}")
    write_entry(entry(tmp_path), tmp_path)
    return tmp_path


@pytest.fixture
def tree(folder):
    return json.loads((folder / ENTRY_NAME).read_text(encoding="utf-8"))


@pytest.fixture
def read(folder):
    """The function that reads other content of entry.json."""

    def read(data):
        (folder / ENTRY_NAME).write_text(json.dumps(data), encoding="utf-8")
        return read_entry(folder)

    return read


def test_what_is_written_is_read(folder, entry):
    assert read_entry(folder) == entry(folder)
    assert file_names(folder) == ["cache/compiled.xmodel", "cache/context.json"]
    check_files(read_entry(folder), folder)


def test_every_key_that_is_missing_or_of_another_kind_is_named_with_its_place(folder, tree, read):
    faults = faults_unnamed(
        tree,
        read,
        CompileError,
        str(folder / ENTRY_NAME),
        names=[("files",), ("report", "cpu_operators")],
        optional={"batch", "estimated_run_s"},
    )
    # The key has a digest of all that is in it; the share is for people, and of latency old entries say nothing.
    assert {path for path, *_ in faults} == {("report", "latency_simulated"), ("report", "offload"), CONFIG}
    assert [found for path, _, found in faults if path == CONFIG] == [ALTERED.format(folder / ENTRY_NAME)]


@pytest.mark.parametrize("part", ["model", "driver", "provider_version", "runtime"])
def test_a_key_that_was_altered_is_told_by_its_digest(folder, tree, read, part):
    with pytest.raises(CompileError) as caught:
        read(replaced(tree, ("key", part), "other"))
    assert str(caught.value) == ALTERED.format(folder / ENTRY_NAME)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000], ids=["empty", "cut", "no UTF-8", "too deep"])
def test_what_is_no_json(folder, data):
    (folder / ENTRY_NAME).write_bytes(data)
    with pytest.raises(CompileError, match=r"entry\.json: not JSON \(.*\)$"):
        read_entry(folder)


def test_what_cannot_be_read(folder):
    (folder / ENTRY_NAME).unlink()
    with pytest.raises(CompileError, match=r"entry\.json: cannot be read: No such file"):
        read_entry(folder)
    (folder / ENTRY_NAME).mkdir()
    with pytest.raises(CompileError, match=r"entry\.json: cannot be read: Is a directory"):
        read_entry(folder)


def test_other_formats(tree, read, folder, entry):
    with pytest.raises(UnsupportedFormat, match=r"entry\.json: format_version is 2\.0; this fieldtune reads 1\.x"):
        read({**tree, "format_version": "2.0"})
    with pytest.warns(UserWarning, match=r"format 1\.1 is later than 1\.0"):
        found = read({**tree, "format_version": "1.1", "novelty": 1})
    assert found.key == entry(folder).key


def test_damage_is_listed_and_reports_that_are_written_again_are_none(folder):
    made = read_entry(folder)
    (folder / "cache" / "context.json").write_bytes(b'{"opened": 2}')
    check_files(made, folder)
    (folder / "cache" / "compiled.xmodel").write_bytes(b"Compiled ")
    (folder / "cache" / "context.json").unlink()
    with pytest.raises(CompileError) as caught:
        check_files(made, folder)
    assert str(caught.value) == (
        f"{folder}: 2 damaged file(s)\n  - cache/compiled.xmodel: altered (9 bytes; 8 were written)\n"
        "  - cache/context.json: missing"
    )


def test_a_context_is_checked_though_its_name_ends_like_a_reports(tmp_path, entry):
    (tmp_path / "context.json").write_bytes(b"{}")
    made = entry(tmp_path, context="context.json")
    (tmp_path / "context.json").write_bytes(b"[]")
    with pytest.raises(CompileError, match=r"context\.json: altered"):
        check_files(made, tmp_path)


def test_files_of_a_folder_have_their_digests(folder):
    assert list_files(folder)["cache/context.json"] == FileSpec(
        sha256="44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", size_bytes=2
    )
