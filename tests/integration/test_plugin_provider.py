"""A provider that really compiles: OpenVINO's plugin for ONNX Runtime, on this processor as if it were an NPU.

The same steps as on a board: the provider is loaded from a library, compiles in a process of its own into EPContext
models, and takes them from the store; its placement is read back.
"""

import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")  # of the development environment, which builds the wheel and the bundle

from fieldtune.hardware import load_profile
from fieldtune.hardware.machine import processor_name

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
ORT, PLUGIN = "onnxruntime==1.31.1", "onnxruntime-ep-openvino==1.8.1"
PROVIDER, CPU = "OpenVINOExecutionProvider", "CPUExecutionProvider"
PROFILE = """
format_version = "1.1"
name = "npu"
title = "OpenVINO on a processor"
source = []

[execution]
provider = "OpenVINOExecutionProvider"
plugin_library = {library}
min_offload = 0.8
max_partitions = 2
compile_timeout_s = {seconds}
{options}

[accelerator]
target = "x86-64"
family = "npu"
peak_tops = 1.0
batch = 2
"""
DEVICES = """
import sys
import onnxruntime
onnxruntime.register_execution_provider_library("plugin", sys.argv[1])
print(*{device.ep_name for device in onnxruntime.get_ep_devices()})
"""
FLOAT = """
import json, sys
import numpy as np
from fieldtune.bundle import open_bundle
from fieldtune.compilation.prefix import open_prefix
from fieldtune.hardware import load_profile
from fieldtune.hardware.machine import processor_name
prefix = open_prefix(open_bundle(sys.argv[1]), load_profile(sys.argv[2]))
(found,) = prefix.run({"pixel_values": np.ones((3, 3, 32, 32), np.float32)}).values()
print(json.dumps({"report": prefix.report.to_json(), "said": str(prefix.report), "shape": found.shape}))
"""
OPEN = """
import json, sys
import numpy as np
from fieldtune.bundle import open_bundle
from fieldtune.compilation.prefix import open_prefix
from fieldtune.compilation.kept.store import CompiledStore
from fieldtune.hardware import load_profile
from fieldtune.hardware.machine import processor_name
bundle, profile = open_bundle(sys.argv[1]), load_profile(sys.argv[2])
prefix, plain = open_prefix(bundle, profile), open_prefix(bundle, profile, on_missing="cpu")
rows = {"pixel_values": np.random.default_rng(0).standard_normal((5, 3, 32, 32)).astype(np.float32)}
(found,) = prefix.run(rows).values()
(alone,) = prefix.run({"pixel_values": rows["pixel_values"][3:4]}).values()
print(json.dumps({
    "report": prefix.report.to_json(), "compiles": prefix.compiles, "identity": prefix.identity, "shape": found.shape,
    "alone": bool((alone[0] == found[3]).all()), "values": len(np.unique(found)), "sum": float(found.sum()),
    "entries": len(CompiledStore().list()), "plain": plain.report.to_json(),
}))
"""


def _module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _small_bundle(cache, name):
    folder = Path(os.environ.get("FIELDTUNE_TEST_BUNDLES") or cache / "bundles") / name
    if not folder.is_dir():
        pytest.skip(f"no bundle {folder}: make tiny-bundles builds it")
    return folder


@pytest.fixture(scope="module")
def python(cache, lacks):
    """The interpreter of an environment with the device half and the plugin."""
    if sys.platform != "linux" or platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip(f"{PLUGIN} has a wheel for 64-bit x86 Linux, and this is {sys.platform} {platform.machine()}")
    environments = _module(REPOSITORY / "demo" / "environments.py")
    try:
        folder = environments.device_environment(cache, ort=ORT, also=[PLUGIN])
    except subprocess.CalledProcessError as error:
        lacks("openvino", f"{PLUGIN} cannot be installed: pip exited with {error.returncode}")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def library(python):
    program = "import onnxruntime_ep_openvino as plugin; print(plugin.get_library_path())"
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def offered(python, library):
    """Whether the plugin offers its provider for this machine; OpenVINO has none for some makers' processors."""
    found = subprocess.run([python, "-c", DEVICES, library], capture_output=True, text=True, check=True)
    return PROVIDER in found.stdout.split()


@pytest.fixture
def device(offered):
    """What a test needs that compiles or runs with the provider."""
    if not offered:
        pytest.skip(f"{PLUGIN} was loaded and offers no {PROVIDER} for this processor, {processor_name()}")


@pytest.fixture
def profile(library, tmp_path):
    """The function that writes the profile, with other options, and returns its path."""

    def write(options="", seconds=120):
        path = tmp_path / "npu.toml"
        path.write_text(PROFILE.format(library=json.dumps(library), options=options, seconds=seconds))
        return path

    return write


@pytest.fixture
def plain(profile):
    """The function that writes the profile without its accelerator, with other demands, and returns its path."""

    def write(demands=""):
        path = profile()
        text = path.read_text().partition("[accelerator]")[0]
        path.write_text(text.replace("min_offload = 0.8\nmax_partitions = 2\n", f"{demands}\n"))
        return path

    return write


@pytest.fixture
def bundle(cache, profile, tmp_path):
    """The function that makes the bundle; with an operator that the plugin's compiler cannot take, if asked for."""
    source = _small_bundle(cache, "split-vision")
    import split_bundles

    def make(**changes):
        found = load_profile(str(profile()))
        return split_bundles.add_prefixes(source, tmp_path / "bundle", found, **changes)

    return make


@pytest.fixture
def run(python, tmp_path, monkeypatch):
    """The function that runs a command of fieldtune, or a program, in the environment."""
    monkeypatch.setenv("FIELDTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def call(*arguments, program=None):
        command = [python, "-c", program] if program else [python.with_name("fieldtune")]
        return subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=tmp_path
        )

    return call


@pytest.mark.usefixtures("device")
def test_compiled_kept_opened_and_read_back(bundle, profile, run, tmp_path):
    folder = bundle(softmax=True)
    done = run("compile", folder, "--profile", profile(), "--json")
    assert done.returncode == 0, done.stderr
    compiled = json.loads(done.stdout)
    placement = compiled["placement"]
    assert (placement["requested"], placement["actual"], placement["emulated"]) == (PROVIDER, PROVIDER, False)
    assert (placement["offload"], placement["partitions"], placement["cpu_operators"]) == (1.0, 1, {})
    nodes = json.loads((folder / "graphs" / "prefix_npu.nodes.json").read_text())["nodes"]
    assert placement["shares"][0]["nodes"] == len(nodes)
    # What goes in and comes out is float32: two images, and two boundaries of 16 · 4 · 4.
    assert placement["boundary_bytes"] == 2 * 4 * (3 * 32 * 32 + 16 * 4 * 4)
    assert compiled["compile_seconds"] > 0
    files = {path.name for path in Path(compiled["entry"]).iterdir()}
    assert {"entry.json", "prefix_npu_context.onnx"} < files

    opened = run(folder, profile(), program=OPEN)
    assert opened.returncode == 0, opened.stderr
    found = json.loads(opened.stdout)
    assert found["report"] == placement
    assert (found["compiles"], found["entries"], found["shape"]) == (0, 1, [5, 16, 4, 4])
    assert found["alone"]
    assert found["values"] > 10
    # The provider is there, so that the policy for one that is missing does not apply.
    assert found["plain"] == placement


@pytest.mark.usefixtures("device")
def test_another_option_is_a_stale_entry(bundle, profile, run):
    folder = bundle()
    assert run("compile", folder, "--profile", profile()).returncode == 0
    done = run(folder, profile('options = { num_of_threads = "1" }'), program=OPEN)
    assert done.returncode == 1
    assert "does not belong to what is to run now" in done.stderr
    assert "- option num_of_threads: stored none, now " in done.stderr


@pytest.mark.usefixtures("device")
def test_a_damaged_compiled_form_is_refused(bundle, profile, run):
    folder = bundle()
    entry = Path(json.loads(run("compile", folder, "--profile", profile(), "--json").stdout)["entry"])
    (compiled,) = entry.glob("*.bin")
    compiled.write_bytes(compiled.read_bytes()[:-1])
    done = run(folder, profile(), program=OPEN)
    assert done.returncode == 1
    assert f"{compiled.name}: altered" in done.stderr


@pytest.mark.usefixtures("device")
def test_what_the_compiler_cannot_take_is_an_error_and_is_not_kept(bundle, profile, run, tmp_path):
    folder = bundle(unknown=True)
    done = run("compile", folder, "--profile", profile())
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("fieldtune: error: ")]
    assert "prefix_npu.onnx: OpenVINOExecutionProvider failed to take it" in line
    # What the rules know of the target is told beside the compiler's own words.
    assert "\nBy what is known of x86-64:\n  - " in done.stderr
    assert list((tmp_path / "cache" / "compiled").iterdir()) == []


def test_the_library_is_needed_where_nothing_else_is_asked_for(bundle, profile, run, library):
    folder, path = bundle(), profile()
    path.write_text(path.read_text().replace(library, "/nowhere/provider.so"))
    done = run("compile", folder, "--profile", path)
    assert done.returncode == 1
    assert "OpenVINOExecutionProvider of the profile npu: the plugin library /nowhere/provider.so is not" in done.stderr
    done = run("compile", folder, "--profile", path, "--on-missing", "emulate", "--json")
    assert done.returncode == 0, done.stderr
    placement = json.loads(done.stdout)["placement"]
    assert (placement["requested"], placement["actual"], placement["emulated"]) == (PROVIDER, CPU, True)


def test_a_library_that_offers_nothing_here_says_so_and_not_what_to_install(bundle, profile, run, library, offered):
    if offered:
        pytest.skip(f"{PLUGIN} offers {PROVIDER} for this processor, {processor_name()}")
    folder, path = bundle(), profile()
    done = run("compile", folder, "--profile", path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"fieldtune: error: {PROVIDER} of the profile npu: the plugin library {library} was loaded by ONNX Runtime "
        f"{ORT.partition('==')[2]} and offers no provider for this processor, {processor_name()}, or another device of "
        "this machine; use it on one that its vendor supports, "
        "or use --on-missing emulate to have the CPU emulate x86-64"
    )
    done = run("compile", folder, "--profile", path, "--on-missing", "emulate", "--json")
    assert done.returncode == 0, done.stderr
    placement = json.loads(done.stdout)["placement"]
    assert (placement["requested"], placement["actual"], placement["emulated"]) == (PROVIDER, CPU, True)


@pytest.mark.usefixtures("device")
def test_without_an_accelerator_what_it_really_runs_is_read_back_and_held(cache, plain, run, tmp_path):
    import split_bundles

    folder = split_bundles.replace_prefix(_small_bundle(cache, "split-vision"), tmp_path / "bundle", batch=2)
    done = run(folder, plain("min_offload = 1.0\nmax_partitions = 2"), program=FLOAT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    report = found["report"]
    assert (report["requested"], report["actual"], report["target"], report["profile"]) == (
        PROVIDER,
        PROVIDER,
        "",
        "npu",
    )
    # The product became a Gemm of another name, and is the provider's all the same.
    macs = 2 * 16 * 4 * 4 * 3 * 8 * 8 + 2 * 16 * 16 * 16
    assert [(share["provider"], share["macs"]) for share in report["shares"]] == [(PROVIDER, macs), (CPU, 0)]
    assert (report["partitions"], report["cpu_operators"]) == (2, {"Binarizer": 1})
    assert found["said"] == f"prefix on {PROVIDER}: 100.0% of its multiply-accumulates in 2 partitions, 2 samples a run"
    assert found["shape"] == [3, 16, 4, 4]
    done = run(folder, plain("max_partitions = 1"), program=FLOAT)
    assert done.returncode == 1
    assert "max_partitions: it is cut into 2 pieces, and the profile allows 1; the CPU runs 1 Binarizer" in done.stderr


@pytest.mark.usefixtures("device")
def test_training_says_where_the_whole_graph_runs(cache, plain, run, tmp_path):
    data = tmp_path / "data.jsonl"
    rows = [{"text": f"a {word} film", "label": label} for word, label in (("good", "positive"), ("bad", "negative"))]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows * 4))
    folder, out = _small_bundle(cache, "tiny-classifier"), tmp_path / "out"
    arguments = ("train", folder, "--data", data, "--out", out, "--profile", plain("min_offload = 0.9"))
    done = run(*arguments, "--epochs", "1")
    assert done.returncode == 0, done.stderr
    said = (
        f"placement: gradient on {PROVIDER}: 100.0% of its multiply-accumulates in 1 partition, any number of samples"
    )
    assert said in done.stderr
    report = json.loads((out / "train_report.json").read_text())
    assert report["placement"]["graph"] == "gradient"
    assert report["placement"]["offload"] == 1.0
