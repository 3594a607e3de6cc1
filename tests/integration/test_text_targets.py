"""A text encoder for an accelerator: in more pieces than a profile allows, refused; in as many as it allows, run."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

from fieldtune.cli import main
from fieldtune_offline.cli import main as offline

PROFILES = Path(__file__).resolve().parents[2] / "hw_profiles"
WORDS = {"negative": ("bad", "poor", "dull", "boring"), "positive": ("good", "great", "fine", "fun")}


@pytest.fixture
def copied_profile(tmp_path):
    """The function that writes a copy of kv260 with so many partitions allowed; return its path."""

    def write(most):
        text = (PROFILES / "kv260.toml").read_text(encoding="utf-8")
        text = re.sub(r"(?m)^max_partitions = \d+", f"max_partitions = {most}", text)
        path = tmp_path / f"texts-{most}.toml"
        path.write_text(text.replace('name = "kv260"', f'name = "texts-{most}"', 1), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def texts(tmp_path):
    """The file of 24 reviews that a word each decides, half of them positive."""
    rows = [
        {"text": f"the {noun} is {word}", "label": label}
        for label, words in WORDS.items()
        for word in words
        for noun in ("film", "plot", "scene")
    ]
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


@pytest.fixture
def build(tiny_models, texts, tmp_path):
    """The function that builds a bundle for a target: its second layer adapts, the first one is the prefix."""
    fixed = [str(tiny_models / "classifier"), "--task", "text-classification", "--labels", *WORDS, "--sequence", "16"]
    fixed += ["--target-modules", "query", "value", "--split", "1", "--calibration", texts]
    return lambda target: offline(["build", *fixed, "--target", target, "--out", str(tmp_path / "bundle")])


def test_a_profile_that_allows_fewer_pieces_refuses_before_quantizing(build, copied_profile, tmp_path, capsys):
    assert build(copied_profile(5)) == 1
    told = capsys.readouterr().err
    assert "max_partitions: it is cut into 6 pieces, and the profile allows 5" in told
    assert "change the limit in a copy of the profile and name its path" in told
    assert "quantizing" not in told.partition("error:")[0]
    assert not (tmp_path / "bundle").exists()


def test_a_profile_that_allows_them_runs_it(build, copied_profile, texts, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FIELDTUNE_CACHE", str(tmp_path / "cache"))
    profile, bundle, out = copied_profile(6), str(tmp_path / "bundle"), tmp_path / "adapter"
    assert build(profile) == 0
    device = ["--profile", profile, "--on-missing", "emulate"]
    assert main(["check", bundle, "--profile", profile]) == 0
    assert main(["compile", bundle, *device]) == 0
    settings = ["--epochs", "20", "--batch-size", "8", "--learning-rate", "0.02"]
    assert main(["train", bundle, "--data", texts, "--eval", texts, *settings, "--out", str(out), *device]) == 0
    assert "in 6 partitions" in capsys.readouterr().err
    report = json.loads((out / "train_report.json").read_text(encoding="utf-8"))
    before, *_, after = (record["evaluation"] for record in report["evaluations"])
    assert after["loss"] < 0.8 * before["loss"]
    assert after["accuracy"] > before["accuracy"]
    assert main(["run", bundle, "a great story", "--adapter", str(out), "--json", *device]) == 0
    assert json.loads(capsys.readouterr().out)["emulated"] is True
