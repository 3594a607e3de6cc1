import subprocess
import sys
from pathlib import Path

import pytest

import fieldtune
from fieldtune.errors import ProviderUnavailable
from fieldtune.hardware.installed import features, installed_runtimes, load_runtime, numpy_fault

PACKAGE_ROOT = Path(fieldtune.__file__).parents[1]


def _install(folder, name, version, top_level="onnxruntime"):
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    (info / "top_level.txt").write_text(f"{top_level}\n", encoding="utf-8")
    (info / "RECORD").write_text(f"{top_level}/__init__.py,,\n", encoding="utf-8")


def _load_in_bare_interpreter(folder):
    """Call load_runtime where nothing is installed but what lies in the folder; return the error's message."""
    program = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from fieldtune.errors import ProviderUnavailable\n"
        "from fieldtune.hardware.installed import load_runtime\n"
        "try: load_runtime()\n"
        "except ProviderUnavailable as error: print(error)\n"
    )
    # In an environment of wheels the package's own folder holds ONNX Runtime as well.
    alone = folder / "alone"
    alone.mkdir()
    (alone / "fieldtune").symlink_to(PACKAGE_ROOT / "fieldtune")
    command = [sys.executable, "-I", "-S", "-c", program, str(folder), str(alone)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_installed_runtime_is_found_with_its_features():
    onnxruntime = pytest.importorskip("onnxruntime")
    assert load_runtime() is onnxruntime
    found = features()
    assert found.version == onnxruntime.__version__
    assert "CPUExecutionProvider" in found.providers
    # 1.20 brought adapters.
    assert found.has_lora_adapter == (tuple(map(int, found.version.split(".")[:2])) >= (1, 20))
    assert found.has_training_api == any("training" in name for name in installed_runtimes())


def test_two_distributions_are_one_clear_line(tmp_path, monkeypatch):
    _install(tmp_path, "onnxruntime-gpu", "1.20.0")
    _install(tmp_path, "onnxruntime-training-cpu", "1.19.2")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert {"onnxruntime-gpu", "onnxruntime-training-cpu"} <= set(installed_runtimes())
    with pytest.raises(ProviderUnavailable) as caught:
        load_runtime()
    message = str(caught.value)
    assert "onnxruntime-gpu 1.20.0" in message
    assert "onnxruntime-training-cpu 1.19.2" in message
    assert "run: pip uninstall " in message
    assert "\n" not in message


def test_packages_around_onnx_runtime_are_not_runtimes(tmp_path, monkeypatch):
    before = installed_runtimes()
    _install(tmp_path, "onnxruntime-genai", "0.9.0", top_level="onnxruntime_genai")
    _install(tmp_path, "onnxruntime-extensions", "0.14.0", top_level="onnxruntime_extensions")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert installed_runtimes() == before


def test_a_missing_runtime_is_one_line_with_the_command(tmp_path):
    assert _load_in_bare_interpreter(tmp_path) == (
        "ONNX Runtime is not installed; pip install 'fieldtune[ort]', or the build of ONNX Runtime that your board's "
        "vendor offers"
    )


def test_leftovers_of_an_uninstalled_runtime_are_told_apart(tmp_path):
    (tmp_path / "onnxruntime" / "capi").mkdir(parents=True)
    message = _load_in_bare_interpreter(tmp_path)
    assert "cannot be used: it has no InferenceSession; files are left from another installation" in message


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import libnobody", "No module named 'libnobody'"),
        ("raise ImportError('libonnxruntime.so: cannot open shared object file')", "libonnxruntime.so"),
        ("import sys\nsys.nothing", "has no attribute 'nothing'"),
    ],
)
def test_a_broken_installation_is_reported_with_its_cause(tmp_path, source, cause):
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text(source, encoding="utf-8")
    message = _load_in_bare_interpreter(tmp_path)
    assert message.startswith("ONNX Runtime is installed, but cannot be used: ")
    assert cause in message


@pytest.mark.parametrize(
    ("runtime", "numpy", "faulty"),
    [
        ("1.16.3", "2.2.6", True),
        ("1.18.1", "2.0.0", True),
        ("1.16.3", "1.26.4", False),
        ("1.19.0", "2.4.6", False),
        ("1.31.1", "2.4.6", False),
        ("nightly", "2.4.6", False),
    ],
)
def test_numpy_2_with_an_old_runtime_is_refused(runtime, numpy, faulty):
    fault = numpy_fault(runtime, numpy)
    assert (fault is not None) == faulty
    if fault:
        assert fault.endswith("run: pip install 'numpy<2'")
