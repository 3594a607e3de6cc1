import errno
import os
import stat

import pytest

from fieldtune.errors import OutputError
from fieldtune.files import output_folder


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_appears_whole_at_the_end(tmp_path):
    out = tmp_path / "deep" / "out"
    with output_folder(out) as staging:
        (staging / "a").write_text("1")
        assert not out.exists()
        assert staging.parent == out.parent
    assert (out / "a").read_text() == "1"
    assert _names(tmp_path / "deep") == ["out"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(out.stat().st_mode) == 0o777 & ~mask


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt(), OutputError("no")])
def test_nothing_is_left_of_a_block_that_fails(tmp_path, error):
    def fail():
        with output_folder(tmp_path / "out") as staging:
            (staging / "a").write_text("1")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert _names(tmp_path) == []


def test_a_disk_that_is_full_in_the_end_is_an_output_error(tmp_path):
    with (
        pytest.raises(OutputError, match=rf"{tmp_path}/out: cannot be written: No space left on device"),
        output_folder(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert _names(tmp_path) == []


def test_a_disk_that_is_full_in_the_beginning_shows_at_once(tmp_path):
    with (
        pytest.raises(OutputError, match=r"the disk has .* MB left, and 1000000000000\.0 MB are needed"),
        output_folder(tmp_path / "out", needed_bytes=10**18),
    ):
        raise AssertionError("the block must not run")
    assert _names(tmp_path) == []


def test_an_output_error_of_the_block_names_the_place(tmp_path):
    with pytest.raises(OutputError) as caught, output_folder(tmp_path / "out") as staging:
        raise OutputError(f"{staging}: is not empty")
    assert str(caught.value) == f"{tmp_path}/out: is not empty"


def test_what_exists_is_refused_without_overwrite(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(OutputError, match="exists; choose another folder or add --overwrite"), output_folder(out):
        raise AssertionError("the block must not run")
    with pytest.raises(OutputError, match="exists"), output_folder(tmp_path / "new"):
        (tmp_path / "new").mkdir()


def test_overwriting_replaces_the_whole_folder(tmp_path):
    out = tmp_path / "out"
    for index in range(3):
        with output_folder(out, overwrite=True, marks=("mark",)) as staging:
            (staging / "mark").write_text("")
            (staging / f"file{index}").write_text(str(index))
    assert _names(out) == ["file2", "mark"]
    assert _names(tmp_path) == ["out"]


def test_the_old_folder_stays_when_the_block_fails(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mark").write_text("old")
    with pytest.raises(RuntimeError), output_folder(out, overwrite=True, marks=("mark",)):
        raise RuntimeError
    assert (out / "mark").read_text() == "old"
    assert _names(tmp_path) == ["out"]


def test_a_private_folder_is_its_owners_alone(tmp_path):
    for private, mode in ((True, 0o700), (False, 0o755)):
        before = os.umask(0o022)
        try:
            with output_folder(tmp_path / str(private), private=private) as staging:
                (staging / "file").write_text("")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / str(private)).stat().st_mode) == mode


def test_other_things_are_not_overwritten(tmp_path):
    out = tmp_path / "home"
    out.mkdir()
    with output_folder(out, overwrite=True, marks=("mark",)) as staging:  # empty: nothing to lose
        (staging / "thesis.txt").write_text("years")
    with pytest.raises(OutputError, match="holds other things"), output_folder(out, overwrite=True, marks=("mark",)):
        raise AssertionError("the block must not run")
    assert (out / "thesis.txt").read_text() == "years"
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(OutputError, match="is a file"), output_folder(file, overwrite=True):
        raise AssertionError("the block must not run")


def test_a_file_in_place_of_a_parent_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"), output_folder(tmp_path / "file" / "out"):
        raise AssertionError("the block must not run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_parent_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="Permission denied"), output_folder(tmp_path / "closed" / "out"):
        raise AssertionError("the block must not run")


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "mark").write_text("real")
    (tmp_path / "out").symlink_to(tmp_path / "real")
    with output_folder(tmp_path / "out", overwrite=True, marks=("mark",)) as staging:
        (staging / "mark").write_text("new")
    assert (tmp_path / "real" / "mark").read_text() == "real"
    assert (tmp_path / "out" / "mark").read_text() == "new"
    assert not (tmp_path / "out").is_symlink()


def test_a_relative_place_has_a_name(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(OutputError, match=f"{tmp_path}/here: exists"), output_folder("."):
        raise AssertionError("the block must not run")
