"""Another provider than the CPU's, in a profile without an accelerator: what it really runs is read back and held.

The provider is Azure's, which most wheels of ONNX Runtime have and which takes no operator of a model: all of the graph
ends on the CPU, and ONNX Runtime says nothing.
"""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("tyro")

from fieldtune.cli import main
from fieldtune.compilation.prefix import open_prefix
from fieldtune.errors import PlacementRefused
from fieldtune.hardware import load_profile
from fieldtune.placement.opening import open_graph
from fieldtune.placement.targets import choose_for
from fieldtune.serving.runner import Runner

ort = pytest.importorskip("onnxruntime")

AZURE, CPU = "AzureExecutionProvider", "CPUExecutionProvider"
NOTHING = f"nothing of it runs on {AZURE}; the CPU runs "

pytestmark = pytest.mark.skipif(
    AZURE not in ort.get_available_providers(), reason=f"this ONNX Runtime has no {AZURE}, only others"
)


@pytest.fixture
def profile():
    generic = load_profile("cpu-generic")
    return dataclasses.replace(
        generic, name="cloud", execution=dataclasses.replace(generic.execution, provider=AZURE, on_missing="error")
    )


@pytest.fixture
def path(tmp_path, monkeypatch):
    """The profile as a file."""
    monkeypatch.setenv("FIELDTUNE_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "cloud.toml"
    file.write_text(
        f'format_version = "1.1"\nname = "cloud"\ntitle = "A cloud"\nsource = []\n[execution]\nprovider = "{AZURE}"\n'
    )
    return file


@pytest.mark.parametrize("name", ["tiny-vision", "tiny-classifier", "tiny-lm", "static-vision", "split-classifier"])
@pytest.mark.parametrize("graph", ["infer", "eval", "gradient"])
def test_a_whole_graph_of_which_the_provider_runs_nothing(opened, profile, name, graph):
    bundle = opened(name)
    with pytest.raises(PlacementRefused) as caught:
        open_graph(bundle, graph, choose_for(bundle, profile))
    assert str(caught.value).startswith(
        f"{graph}: its placement on {AZURE} is not what the profile cloud demands; take a profile with {CPU} or"
    )
    assert NOTHING in str(caught.value)


def test_a_prefix_of_which_the_provider_runs_nothing(opened, profile):
    with pytest.raises(PlacementRefused, match=f"^prefix: its placement on {AZURE} .*\n.*{NOTHING}"):
        open_prefix(opened("split-vision"), profile)


def test_a_request_for_a_provider_that_runs_nothing(opened):
    with pytest.raises(PlacementRefused, match=NOTHING):
        Runner(opened("tiny-vision"), load_profile("cpu-generic"), provider=AZURE)
    assert Runner(opened("tiny-vision"), load_profile("cpu-generic")).placement is None


@pytest.mark.parametrize("command", ["train", "evaluate", "run"])
@pytest.mark.parametrize("bundle", ["tiny-vision", "split-vision"])
def test_no_command_runs_it_on_the_cpu_in_silence(bundle_folder, path, tmp_path, capsys, command, bundle):
    for label in ("dark", "light"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        np.save(tmp_path / "photos" / label / "one.npy", np.zeros((32, 32, 3), np.uint8))
    rest = {
        "train": ["--data", str(tmp_path / "photos"), "--out", str(tmp_path / "out")],
        "evaluate": ["--data", str(tmp_path / "photos")],
        "run": [str(tmp_path / "photos/dark/one.npy")],
    }
    assert main([command, str(bundle_folder(bundle)), *rest[command], "--profile", str(path)]) == 1
    shown = capsys.readouterr()
    assert NOTHING in shown.err
    assert shown.out == ""
    assert not (tmp_path / "out").exists()


def test_check_names_the_provider_that_is_asked_for(bundle_folder, path, capsys):
    assert main(["check", str(bundle_folder("split-vision")), "--profile", str(path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert AZURE in said
    assert CPU not in said
    assert f"what {AZURE} leaves to the CPU shows only when a graph is opened" in said
