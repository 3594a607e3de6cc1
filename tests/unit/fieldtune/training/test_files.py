"""A run as files: an adapter that can be read, a report for machines and a page; and a place of refuge."""

import json
import os
import tempfile

import pytest

from builders import lora_adapter
from fieldtune.adapters.directory import read_adapter
from fieldtune.errors import OutputError
from fieldtune.training.files import PAGE_NAME, REPORT_NAME, rescue, write_run


def test_a_run_is_an_adapter_with_its_reports(tmp_path, report):
    made = report(adapter=lora_adapter())
    write_run(made, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(
        ["README.md", "adapter_config.json", "adapter_model.safetensors", "fieldtune.json", PAGE_NAME, REPORT_NAME]
    )
    assert read_adapter(tmp_path / "run").tensors == made.adapter.tensors
    assert json.loads((tmp_path / "run" / REPORT_NAME).read_text(encoding="utf-8"))["planned_steps"] == 40
    assert "<html" in (tmp_path / "run" / PAGE_NAME).read_text(encoding="utf-8")


def test_a_folder_that_holds_something_is_left_alone(tmp_path, report):
    (tmp_path / "note").write_text("keep me")
    with pytest.raises(OutputError, match="is not empty"):
        write_run(report(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The temporary folder, home and the working folder, each below one of the test's own."""
    found = [tmp_path / name for name in ("temporary", "home", "here")]
    for folder in found:
        folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(found[0]))
    monkeypatch.setenv("HOME", str(found[1]))
    monkeypatch.chdir(found[2])
    return found


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_an_adapter_finds_refuge_in_the_first_place_that_is_there(places, gone):
    for folder in places[:gone]:
        folder.rmdir()
    words = rescue(lora_adapter())
    (kept,) = places[gone].iterdir()
    assert words == f"the adapter is safe in {kept}"
    assert read_adapter(kept).tensors == lora_adapter().tensors


def test_where_there_is_no_room_it_says_where_it_tried(places, monkeypatch):
    def full(descriptor):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    assert rescue(lora_adapter()) == f"the adapter could not be saved in {', '.join(map(str, places))} either"
    assert [list(folder.rglob("*.json")) for folder in places] == [[], [], []]
