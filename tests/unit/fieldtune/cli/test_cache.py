"""``fieldtune cache clear``: what it removes, and what it says of what stays."""

import json
import shutil

import pytest

pytest.importorskip("tyro")

from fieldtune.activations.folders import PrefixName, activations_folder, list_activations, prefix_folder
from fieldtune.activations.records import RecordFiles
from fieldtune.cli import main
from fieldtune.compilation.kept.store import CompiledStore

pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDTUNE_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def compiled(cache):
    """Two folders of the store."""
    folders = [cache / "compiled" / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "context.bin").write_bytes(b"0" * 60_000)
    return folders


def keep(name):
    files = RecordFiles(prefix_folder(name, PrefixName(base=name, graph="prefix")))
    files.append({bytes(32): b"1" * 50_000})
    return files


@pytest.mark.usefixtures("compiled")
def test_all_is_removed(capsys):
    keep("some").close()
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out == "removed 2 compiled prefix(es) and the activations of 1: 0.2 MB\n"
    assert (list_activations(), CompiledStore().list()) == ((), [])


def test_a_compiled_prefix_that_stays_keeps_no_activations(compiled, monkeypatch, capsys):
    keep("some").close()
    remove = shutil.rmtree

    def rmtree(path, *arguments, **options):
        if path == compiled[0]:
            raise PermissionError(13, "Permission denied")
        remove(path, *arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    assert main(["cache", "clear"]) == 1
    shown = capsys.readouterr()
    assert shown.out == "removed 1 compiled prefix(es) and the activations of 1: 0.1 MB\n"
    assert shown.err == (
        f"fieldtune: error: not everything could be removed:\n  - {compiled[0]}: cannot be deleted: Permission denied\n"
    )
    assert list_activations() == ()
    assert [stored.folder for stored in CompiledStore().list()] == [compiled[0]]


def test_activations_in_use_stay_and_are_named(capsys):
    keep("unused").close()
    used = keep("used")
    (folder,) = (stored.path for stored in list_activations() if stored.prefix.base == "used")
    assert main(["cache", "clear", "--json", "--activations"]) == 1
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["removed"] == {"compiled": 0, "activations": 1}
    assert found["kept"] == [f"{folder}: in use by another process"]
    assert shown.err.endswith(f"  - {folder}: in use by another process\n")
    used.close()
    assert main(["cache", "clear", "--activations"]) == 0
    assert list_activations() == ()


def test_what_the_flag_leaves_out_is_left_alone(compiled, capsys):
    used = keep("used")
    assert main(["cache", "clear", "--compiled"]) == 0
    assert not any(folder.exists() for folder in compiled)
    assert len(list_activations()) == 1
    used.close()
    assert "the activations of 0" in capsys.readouterr().out


@pytest.mark.usefixtures("compiled")
def test_activations_that_cannot_be_listed_are_no_empty_cache(capsys):
    activations_folder().write_text("a file")
    assert main(["cache", "clear"]) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("removed 2 compiled prefix(es)")
    assert "activations: cannot be read (Not a directory)" in shown.err


def test_the_list_has_what_is_kept_and_what_is_wrong_with_it(compiled, cache, capsys):
    keep("some/[base]").close()
    assert main(["cache", "list"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert ["Compiled", "prefixes"] in rows
    assert [row[:6] for row in rows if row[0] in ("one", "other")] == [
        [name, "-", "-", "0.1", "MB", "-"] for name in ("one", "other")
    ]
    assert ["1", "0.1", "MB", "prefix", "no", "some/[base],", "profile"] in rows
    assert main(["cache", "list", "--activations", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["folder"], found["compiled"]) == (str(cache), [])
    assert [(one["prefix"]["base"], one["samples"]) for one in found["activations"]] == [("some/[base]", 1)]


def test_an_empty_cache_is_told(cache, capsys):
    assert main(["cache", "list"]) == 0
    assert capsys.readouterr().out == f"nothing is kept in {cache}\n"
