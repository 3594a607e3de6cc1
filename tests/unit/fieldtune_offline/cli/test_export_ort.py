"""What ``fieldtune-offline export-ort`` refuses before any environment is made."""

import pytest

from builders import image_spec, manifest, merged_manifest, write_bundle
from fieldtune_offline.cli import main


@pytest.mark.parametrize(
    ("described", "said"),
    [
        (merged_manifest(), "the adapter a is merged into its weights, and nothing is left to train"),
        (manifest(image=image_spec(), method="dora"), "the official training artifacts cannot be made for DoRA"),
        (manifest(image=image_spec(), method="miss"), "the official training artifacts cannot be made for MiSS"),
    ],
)
def test_what_cannot_be_trained_by_them(tmp_path, capsys, described, said):
    folder = write_bundle(tmp_path / "bundle", described, {}).root
    before = sorted(path.name for path in folder.iterdir())
    assert main(["export-ort", str(folder)]) == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert said in printed.err
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_folder_that_is_no_bundle(tmp_path, capsys):
    assert main(["export-ort", str(tmp_path)]) == 1
    assert "not a bundle (no manifest.json in it)" in capsys.readouterr().err
