import dataclasses
import hashlib
import importlib.metadata

import pytest

from fieldtune.compilation.kept.versions import driver_version, provider_version
from fieldtune.hardware import load_profile
from fieldtune.runtime.providers import choose_provider
from fieldtune.version import __version__

CPU, VITIS = "CPUExecutionProvider", "VitisAIExecutionProvider"


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture(autouse=True)
def without_xrt(monkeypatch):
    monkeypatch.delenv("XILINX_XRT", raising=False)


def test_a_machine_without_an_accelerator_has_no_driver(tmp_path):
    assert driver_version(tmp_path) == ""


def test_versions_of_xrt_and_of_the_kernel_module(tmp_path, monkeypatch):
    _write(tmp_path / "opt/xilinx/xrt/version.json", '{"BUILD_VERSION": "2.15.225", "BUILD_BRANCH": "2023.1"}')
    _write(tmp_path / "sys/module/zocl/version", "2.15.0,2fb8a7f\n")
    assert driver_version(tmp_path) == "xrt 2.15.225, zocl 2.15.0,2fb8a7f"
    _write(tmp_path / "elsewhere/version.json", '{"BUILD_VERSION": "2.16.0"}')
    monkeypatch.setenv("XILINX_XRT", str(tmp_path / "elsewhere"))
    assert driver_version(tmp_path).startswith("xrt 2.16.0, ")


@pytest.mark.parametrize("content", ["not JSON", "[]", "{}"])
def test_a_file_of_xrt_that_says_nothing(tmp_path, content):
    _write(tmp_path / "opt/xilinx/xrt/version.json", content)
    _write(tmp_path / "sys/module/amdxdna/version", "0.1\n")
    assert driver_version(tmp_path) == "amdxdna 0.1"


def test_an_emulation_has_fieldtunes_version():
    choice = choose_provider(load_profile("vek280"), [CPU], on_missing="emulate")
    assert provider_version(choice) == f"fieldtune {__version__}"


def test_a_plugin_library_has_its_digest(tmp_path):
    library = tmp_path / "provider.so"
    library.write_bytes(b"library")
    choice = choose_provider(load_profile("vek280"), [VITIS, CPU])
    choice = dataclasses.replace(choice, plugin_library=str(library))
    assert provider_version(choice) == f"sha256 {hashlib.sha256(b'library').hexdigest()}"


def test_the_vendors_distributions_and_not_the_stock_one():
    choice = choose_provider(load_profile("vek280"), [VITIS, CPU])
    stock = "onnxruntime" in importlib.metadata.packages_distributions().get("onnxruntime", [])
    if not stock:
        pytest.skip("ONNX Runtime is another distribution than onnxruntime here")
    assert provider_version(choice) == ""
