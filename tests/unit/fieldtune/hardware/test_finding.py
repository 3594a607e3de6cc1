"""Profiles found by name, by path and in the environment's folders, and what is told of those that are not."""

import os

import pytest

from builders import profile, profile_text
from fieldtune.errors import InvalidProfile
from fieldtune.hardware.finding import load_profile, load_profiles, profile_names, profile_path


@pytest.fixture
def board(tmp_path):
    """The function that writes the profile of a board into a folder."""

    def write(folder="boards", name="board", **changes):
        path = tmp_path / folder / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(profile_text(profile(**{"name": name, **changes})), encoding="utf-8")
        return path

    return write


def test_an_unknown_name_brings_the_nearest_and_the_list():
    with pytest.raises(InvalidProfile) as caught:
        load_profile("rpi5")
    assert "Did you mean raspberry-pi-5?" in str(caught.value)
    assert "There are: cpu-generic, jetson-orin-nano, " in str(caught.value)
    with pytest.raises(InvalidProfile, match=r"no hardware profile 'zzz'\. There are: cpu-generic"):
        load_profile("zzz")


def test_a_path_is_read_whatever_its_folder(board):
    path = board()
    assert load_profile(path) == load_profile(str(path)) == profile()
    assert profile_path(path) == path


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("bytes", b"\xff\xfe", "'utf-8' codec can't decode"),
        ("empty", b"", "the key 'format_version' is missing; expected a string, found only: nothing"),
        ("cut", b"name = ", "not TOML: "),
    ],
)
def test_a_file_that_is_no_profile_is_refused_by_its_path(tmp_path, name, data, says):
    path = tmp_path / f"{name}.toml"
    path.write_bytes(data)
    with pytest.raises(InvalidProfile) as caught:
        load_profile(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)


def test_a_path_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InvalidProfile, match=r"none\.toml: cannot be read as a hardware profile: .*No such file"):
        load_profile(tmp_path / "none.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(InvalidProfile, match=r"folder\.toml: cannot be read as a hardware profile: .*Is a directory"):
        load_profile(tmp_path / "folder.toml")


def test_a_copy_that_kept_the_old_name_is_refused(board):
    path = board().rename(board().with_name("mine.toml"))
    with pytest.raises(InvalidProfile, match="'name' is 'board'; expected 'mine', as the file is called"):
        load_profile(path)


def test_folders_of_the_environment_come_first(board, monkeypatch):
    first, second = board("a", title="First").parent, board("b", title="Second").parent
    board("b", "cpu-generic", title="Mine")
    monkeypatch.setenv("FIELDTUNE_PROFILES", f"{first}{os.pathsep}{os.pathsep}{second}")
    names = profile_names()
    assert {"board", "cpu-generic", "raspberry-pi-5"} <= set(names)
    assert list(names) == sorted(names)
    assert load_profile("board").title == "First"
    assert load_profile("cpu-generic").title == "Mine"
    assert profile_path("board") == first / "board.toml"
    titles = [found.title for found in load_profiles()]
    assert titles[:2] == ["First", "Mine"]
    assert len(titles) == len(names)


def test_one_faulty_profile_among_all_is_named(board, monkeypatch):
    path = board()
    path.write_text("name = 3", encoding="utf-8")
    monkeypatch.setenv("FIELDTUNE_PROFILES", str(path.parent))
    assert "board" in profile_names()
    with pytest.raises(InvalidProfile, match=r"boards/board\.toml: the key 'format_version' is missing"):
        load_profiles()


def test_a_folder_of_the_environment_that_is_none_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDTUNE_PROFILES", str(tmp_path / "none"))
    for find in (lambda: load_profile("cpu-generic"), load_profiles, profile_names):
        with pytest.raises(InvalidProfile, match=r"FIELDTUNE_PROFILES names .*none, which is not a folder; correct or"):
            find()
