"""Bundles that were damaged on their way to the device are refused, with the file and the reason."""

import json
import shutil

import pytest

from fieldtune.bundle.opening import open_bundle
from fieldtune.errors import CorruptFile, InvalidBundle, UnsupportedFormat


@pytest.fixture
def copy(bundle_folder, tmp_path):
    """A bundle of our own to damage."""
    shutil.copytree(bundle_folder("tiny-classifier"), tmp_path / "bundle")
    return tmp_path / "bundle"


def _edit(bundle, change):
    path = bundle / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_whole_copy_opens(copy):
    assert open_bundle(copy).manifest.task.labels == ("negative", "positive")


def test_every_faulty_file_is_listed(copy):
    (copy / "graphs" / "eval.onnx").unlink()
    with (copy / "graphs" / "weights.safetensors").open("r+b") as file:
        file.truncate(1000)
    tokenizer = copy / "tokenizer.json"
    tokenizer.write_bytes(tokenizer.read_bytes().replace(b"film", b"filn"))
    with pytest.raises(CorruptFile, match=r"3 faulty file\(s\)") as caught:
        open_bundle(copy)
    message = str(caught.value)
    assert "graphs/eval.onnx: missing" in message
    assert "graphs/weights.safetensors: 1000 bytes; expected" in message
    assert "tokenizer.json: altered" in message


@pytest.mark.parametrize("name", ["../outside.bin", "/etc/hostname", "graphs/../../outside.bin"])
def test_a_path_that_leaves_the_bundle_is_refused(copy, name):
    (copy.parent / "outside.bin").write_bytes(b"x")
    _edit(copy, lambda data: data["files"].update({name: {"sha256": "0" * 64, "size_bytes": 1}}))
    with pytest.raises(CorruptFile, match="leads out of the bundle"):
        open_bundle(copy)


def test_a_link_that_leaves_the_bundle_is_refused(copy):
    outside = copy.parent / "outside.json"
    (copy / "tokenizer.json").rename(outside)
    (copy / "tokenizer.json").symlink_to(outside)
    with pytest.raises(CorruptFile, match=r"tokenizer\.json: leads out of the bundle"):
        open_bundle(copy)


def test_a_graph_that_the_digests_do_not_cover_is_refused(copy):
    _edit(copy, lambda data: data["files"].pop("graphs/gradient.onnx"))
    with pytest.raises(CorruptFile, match=r"graphs/gradient\.onnx: used, but the manifest has no digest of it"):
        open_bundle(copy)


def test_versions_of_the_format(copy):
    _edit(copy, lambda data: data.update(format_version="3.0"))
    with pytest.raises(UnsupportedFormat, match=r"format_version is 3\.0; this fieldtune reads 2\.x: update fieldtune"):
        open_bundle(copy)
    _edit(copy, lambda data: data.update(format_version="1.3"))
    with pytest.raises(UnsupportedFormat, match=r"is 1\.3; .* build it again: fieldtune-offline build MODEL"):
        open_bundle(copy)
    _edit(copy, lambda data: data.update(format_version="2.9", later={}))
    with pytest.warns(UserWarning, match=r"format 2\.9 is later than 2\.0"):
        open_bundle(copy)
    _edit(copy, lambda data: data.update(format_version="2.0"))
    with pytest.raises(InvalidBundle, match="unknown key 'later'"):
        open_bundle(copy)


def test_what_is_not_a_bundle_says_so(tmp_path, copy):
    with pytest.raises(InvalidBundle, match="no such folder"):
        open_bundle(tmp_path / "nothing")
    with pytest.raises(InvalidBundle, match=r"no manifest\.json in it"):
        open_bundle(tmp_path)
    (copy / "manifest.json").write_text('{"format_version": ')
    with pytest.raises(InvalidBundle, match="not JSON"):
        open_bundle(copy)
    (copy / "manifest.json").write_bytes(b"\xff\xfe")
    with pytest.raises(CorruptFile, match="not UTF-8"):
        open_bundle(copy)


def test_a_damaged_bundle_is_one_line_on_the_command_line(copy, capsys):
    pytest.importorskip("tyro")
    from fieldtune.cli import main

    (copy / "graphs" / "eval.onnx").unlink()
    assert main(["inspect", str(copy)]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"fieldtune: error: {copy}: 1 faulty file(s)")
