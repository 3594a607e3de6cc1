"""A profile whose provider the installed ONNX Runtime lacks: nothing runs unless something else was asked for."""

import json

import numpy as np
import pytest

pytest.importorskip("tyro")

from fieldtune.cli import main
from fieldtune.errors import InvalidBundle, ProviderUnavailable
from fieldtune.hardware import load_profile
from fieldtune.placement.targets import choose_for

ort = pytest.importorskip("onnxruntime")

COMMANDS = ("train", "evaluate", "run", "compile")


@pytest.fixture
def arguments(bundle_folder, tmp_path):
    """The function from a command to arguments of it that would run on a CPU profile."""
    bundle, photos = str(bundle_folder("tiny-vision")), tmp_path / "photos"
    for label in ("dark", "light"):
        (photos / label).mkdir(parents=True)
        np.save(photos / label / "one.npy", np.zeros((32, 32, 3), np.uint8))
    rest = {
        "train": ["--data", str(photos), "--out", str(tmp_path / "out")],
        "evaluate": ["--data", str(photos)],
        "run": [str(photos / "dark" / "one.npy")],
        "compile": [],
    }
    return lambda command: [command, bundle, *rest[command], "--profile", "vek280"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDTUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def sessions(monkeypatch):
    """The list of models that ONNX Runtime was asked to open."""
    opened = []

    class Recorded(ort.InferenceSession):
        def __init__(self, path, *positional, **named):
            opened.append(path)
            super().__init__(path, *positional, **named)

    monkeypatch.setattr(ort, "InferenceSession", Recorded)
    return opened


@pytest.mark.parametrize("command", COMMANDS)
def test_without_the_provider_nothing_is_run(arguments, sessions, tmp_path, capsys, command):
    if "VitisAIExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has the Vitis AI provider")
    assert main(arguments(command)) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith("fieldtune: error: VitisAIExecutionProvider is what the profile vek280 asks for, but")
    assert "has only: " + ", ".join(ort.get_available_providers()) in line
    assert "install AMD's Vitis AI 3.5 for this board" in line
    assert "--on-missing emulate" in line
    assert sessions == []
    assert {path.name for path in tmp_path.iterdir()} == {"photos"}
    assert list((tmp_path / "cache").glob("*")) == []


@pytest.mark.parametrize(
    ("command", "on_missing"),
    [
        *((command, "emulate") for command in COMMANDS),
        *((command, "cpu") for command in COMMANDS if command != "compile"),
    ],
)
def test_a_bundle_without_a_prefix_for_the_accelerator_is_refused(arguments, sessions, capsys, command, on_missing):
    assert main([*arguments(command), "--on-missing", on_missing]) == 1
    said = capsys.readouterr().err
    assert "has no prefix for the accelerator of the profile vek280 (DPUCV2DX8G_ISA1_C20B14, xint8, int8" in said
    assert "fieldtune-offline build MODEL --task image-classification --out BUNDLE --target vek280 --cal" in said
    assert sessions == []


@pytest.mark.parametrize("command", ["train", "evaluate", "run"])
def test_every_answer_says_whether_it_was_emulated(arguments, capsys, command):
    extra = ["--epochs", "1"] if command == "train" else []
    assert main([*arguments(command)[:-1], "cpu-generic", *extra, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    if command == "run":
        assert record["emulated"] is False
        return
    assert record["provider"]["provider"] == record["provider"]["requested"] == "CPUExecutionProvider"
    assert record["provider"]["emulated"] is False


def test_a_request_by_name_needs_no_prefix_for_the_accelerator(opened):
    bundle, profile = opened("tiny-vision"), load_profile("vek280")
    choice = choose_for(bundle, profile, "CPUExecutionProvider")
    assert (choice.provider, choice.reason) == ("CPUExecutionProvider", "as requested")
    with pytest.raises(InvalidBundle):
        choose_for(bundle, profile, on_missing="emulate")
    with pytest.raises(ProviderUnavailable, match="was requested"):
        choose_for(bundle, profile, "NobodysExecutionProvider", "emulate")
