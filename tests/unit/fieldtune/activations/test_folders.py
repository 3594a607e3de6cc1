import stat

import pytest

from fieldtune.activations.folders import (
    PrefixName,
    activations_folder,
    clear_activations,
    list_activations,
    prefix_folder,
)
from fieldtune.activations.records import ENTRY_BYTES, RecordFiles


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
    assert [stored.prefix.base for stored in cleared.kept] == ["used"]
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


def test_a_link_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("")
    fill("some")[0].close()
    (activations_folder() / "link").symlink_to(outside)
    clear_activations()
    assert (outside / "precious").is_file()
