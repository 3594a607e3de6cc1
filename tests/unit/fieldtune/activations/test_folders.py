import os
import pathlib
import shutil
import stat

import pytest

from fieldtune.activations.folders import (
    PrefixName,
    activations_folder,
    clear_activations,
    list_activations,
    make_room,
    prefix_folder,
)
from fieldtune.activations.records import ENTRY_BYTES, RecordFiles
from fieldtune.errors import OutputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDTUNE_CACHE", str(tmp_path))
    return tmp_path


def fill(name):
    folder = prefix_folder(name, PrefixName(base=name, profile="p", graph="g", emulated=True))
    files = RecordFiles(folder)
    files.append({bytes([number]) * 32: b"1234" for number in range(3)})
    return files, folder


def test_what_there_is_is_listed_with_its_size():
    assert list_activations() == ()
    files, folder = fill("some")
    files.close()
    (stored,) = list_activations()
    assert stored.path == folder
    assert stored.prefix == PrefixName(base="some", profile="p", graph="g", emulated=True)
    about = (folder / "about.json").stat()
    assert (stored.samples, stored.size_bytes) == (3, 12 + 8 + 3 * ENTRY_BYTES + about.st_size)
    assert stored.last_used_s == about.st_mtime


def test_nobody_else_can_read_anything(cache):
    files, folder = fill("some")
    files.close()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (activations_folder(), folder)} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_clearing_leaves_what_is_in_use_and_nothing_of_the_rest():
    fill("unused")[0].close()
    used, folder = fill("used")
    cleared = clear_activations()
    assert [stored.prefix.base for stored in cleared.removed] == ["unused"]
    assert [(kept.stored.prefix.base, kept.reason) for kept in cleared.kept] == [
        ("used", f"{folder}: in use by another process")
    ]
    assert list(activations_folder().iterdir()) == [folder]
    used.close()
    assert [stored.samples for stored in clear_activations().removed] == [3]
    assert list(activations_folder().iterdir()) == []


def test_only_what_is_chosen_is_cleared():
    for name in ("one", "other"):
        fill(name)[0].close()
    chosen = [stored for stored in list_activations() if stored.prefix.base == "one"]
    assert clear_activations(chosen).removed == tuple(chosen)
    assert [stored.prefix.base for stored in list_activations()] == ["other"]


def test_a_folder_that_does_not_say_what_it_is_for_is_listed_and_cleared():
    files, folder = fill("some")
    files.close()
    (folder / "about.json").write_text('{"base": 3')
    assert [stored.prefix for stored in list_activations()] == [PrefixName()]
    (folder / "about.json").unlink()
    assert [(stored.prefix, stored.samples) for stored in list_activations()] == [(PrefixName(), 3)]
    assert len(clear_activations().removed) == 1
    assert list_activations() == ()


def test_what_another_process_has_removed_counts_as_removed():
    for name in ("one", "other"):
        fill(name)[0].close()
    found = list_activations()
    shutil.rmtree(found[0].path)
    assert clear_activations(found).removed == found
    assert list_activations() == ()


def test_what_cannot_be_removed_is_named_and_does_not_keep_the_rest(monkeypatch):
    for name in ("one", "other", "third"):
        fill(name)[0].close()
    stuck, *_ = list_activations()
    removed = pathlib.Path.rmdir

    def rmdir(path):
        if path == stuck.path:
            raise PermissionError(13, "Permission denied")
        removed(path)

    monkeypatch.setattr(pathlib.Path, "rmdir", rmdir)
    cleared = clear_activations()
    assert len(cleared.removed) == 2
    (kept,) = cleared.kept
    assert (kept.stored.path, kept.reason) == (stuck.path, f"{stuck.path}: cannot be removed (Permission denied)")


def test_a_folder_that_cannot_be_listed_is_no_empty_one(cache):
    (cache / "activations").write_text("a file")
    with pytest.raises(OutputError, match=r"activations: cannot be read \(Not a directory\)"):
        list_activations()


def test_the_longest_unused_make_room_unless_they_are_in_use():
    for number, name in enumerate(("used", "old", "new", "own")):
        files, folder = fill(name)
        if name != "used":
            files.close()
        os.utime(folder / "about.json", (1000 + number, 1000 + number))
    sizes = {stored.prefix.base: stored.size_bytes for stored in list_activations()}
    assert make_room(1 << 20, folder) == sizes["used"] + sizes["old"] + sizes["new"]
    assert make_room(sizes["used"] + sizes["new"], folder) == sizes["used"] + sizes["new"]
    assert [stored.prefix.base for stored in list_activations()] == ["used", "new", "own"]
    assert make_room(0, folder) == sizes["used"]
    assert [stored.prefix.base for stored in list_activations()] == ["used", "own"]


def test_a_link_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("")
    fill("some")[0].close()
    (activations_folder() / "link").symlink_to(outside)
    clear_activations()
    assert (outside / "precious").is_file()
