"""``fieldtune import-checkpoint``: reading needs no training build, so it is tested with every ONNX Runtime."""

import json

import numpy as np
import pytest

pytest.importorskip("tyro")

from fieldtune.adapters.arrays import to_theta
from fieldtune.adapters.directory import read_adapter
from fieldtune.cli import main


@pytest.mark.parametrize("name", ["tiny-classifier", "tiny-lm"])
def test_a_checkpoint_becomes_the_adapter_that_it_holds(name, exported, tmp_path, capsys):
    bundle = exported(name)
    checkpoint = bundle.root / bundle.manifest.ort_training.checkpoint
    assert main(["import-checkpoint", str(bundle.root), str(checkpoint), "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "out": str(tmp_path / "out"),
        "parameters": bundle.manifest.layout.size,
    }
    found, initial = read_adapter(tmp_path / "out"), read_adapter(bundle.adapter_path)
    theta = to_theta(found, bundle.manifest)
    np.testing.assert_array_equal(theta, to_theta(initial, bundle.manifest))
    assert theta.any()
    assert found.card.labels == bundle.manifest.task.labels
    assert found.card.base_sha256 == bundle.manifest.base.sha256
    # A second time needs leave to overwrite.
    again = ["import-checkpoint", str(bundle.root), str(checkpoint), "--out", str(tmp_path / "out")]
    assert main(again) == 1
    assert main([*again, "--overwrite"]) == 0


def test_what_is_no_checkpoint_of_this_bundle_is_refused(exported, tmp_path, capsys):
    bundle, other = exported("tiny-lm"), exported("tiny-classifier")
    artifacts = bundle.manifest.ort_training
    whole = (bundle.root / artifacts.checkpoint).read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").write_bytes(b"")
    cases = {
        bundle.root / artifacts.nominal_checkpoint: "holds the names of parameters and no values",
        bundle.root / "manifest.json": "not a checkpoint of ONNX Runtime's training API",
        other.root / other.manifest.ort_training.checkpoint: f"{len(bundle.manifest.layout.parameters)} parameter(s)",
        tmp_path / "cut": "checkpoint",
        tmp_path / "empty": "cannot be read as a checkpoint",
        tmp_path / "nothing": "No such file",
    }
    for path, message in cases.items():
        assert main(["import-checkpoint", str(bundle.root), str(path), "--out", str(tmp_path / "out")]) == 1, path
        error = capsys.readouterr().err
        assert error.startswith(f"fieldtune: error: {path}: "), error
        assert message in error
        assert not (tmp_path / "out").exists()
