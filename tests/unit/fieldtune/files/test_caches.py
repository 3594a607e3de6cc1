import stat
from pathlib import Path

import pytest

from fieldtune.errors import OutputError
from fieldtune.files import cache_folder, private_folder


def test_variables_name_the_folder(monkeypatch):
    monkeypatch.delenv("FIELDTUNE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "fieldtune"
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/tmp/mine")
    assert cache_folder() == Path("/var/tmp/mine/fieldtune")
    monkeypatch.setenv("FIELDTUNE_CACHE", "/var/tmp/other")
    assert cache_folder() == Path("/var/tmp/other")


def test_a_private_folder_is_for_its_owner_alone_even_if_it_was_not(tmp_path):
    folder = private_folder(tmp_path / "deep" / "folder")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o755)
    assert stat.S_IMODE(private_folder(folder).stat().st_mode) == 0o700


def test_a_link_is_no_private_folder(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="link: not a folder; remove it, or set FIELDTUNE_CACHE"):
        private_folder(tmp_path / "link")


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"folder: cannot be made a folder of its owner alone \(.+\)"):
        private_folder(tmp_path / "file" / "folder")
