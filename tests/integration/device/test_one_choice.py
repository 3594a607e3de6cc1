"""A command chooses its provider once: what it says of the choice is what every session is opened with."""

import functools

import numpy as np
import pytest

pytest.importorskip("tyro")

from fieldtune.cli import main
from fieldtune.runtime import plugins

pytest.importorskip("onnxruntime")

EMULATED = ("--profile", "kv260", "--on-missing", "emulate")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDTUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def choices(monkeypatch):
    """The list of the choices that are made."""
    made, choose = [], plugins.choose_provider

    @functools.wraps(choose)
    def recorded(*positional, **named):
        made.append(choose(*positional, **named))
        return made[-1]

    monkeypatch.setattr(plugins, "choose_provider", recorded)
    return made


@pytest.fixture
def photos(tmp_path):
    for label, level in (("dark", 60), ("light", 190)):
        for number in range(4):
            path = tmp_path / "photos" / label / f"{number}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.full((32, 32, 3), level + number, np.uint8))
    return tmp_path / "photos"


@pytest.fixture
def arguments(photos, tmp_path):
    """The function from a command and a bundle's folder to its arguments."""
    rest = {
        "train": ["--data", str(photos), "--eval", str(photos), "--out", str(tmp_path / "out"), "--epochs", "1"],
        "evaluate": ["--data", str(photos)],
        "run": [str(photos)],
    }
    return lambda command, bundle, *flags: [command, str(bundle), *rest[command], *flags]


@pytest.mark.parametrize("command", ["train", "evaluate", "run"])
@pytest.mark.parametrize("name", ["tiny-vision", "split-vision"])
def test_a_command_chooses_once(name, command, bundle_folder, arguments, choices):
    assert main(arguments(command, bundle_folder(name))) == 0
    assert [choice.provider for choice in choices] == ["CPUExecutionProvider"]


@pytest.mark.parametrize("command", ["train", "evaluate", "run"])
def test_a_command_beside_an_emulated_accelerator_chooses_once(command, target_folder, arguments, choices):
    assert main(["compile", str(target_folder), *EMULATED]) == 0
    choices.clear()
    assert main(arguments(command, target_folder, *EMULATED)) == 0
    assert [(choice.provider, choice.emulated) for choice in choices] == [("CPUExecutionProvider", True)]
