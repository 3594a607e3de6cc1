import shutil
import subprocess

import pytest

from builders import altered
from fieldtune.errors import ProviderUnavailable
from fieldtune.hardware import load_profile
from fieldtune.hardware.machine import processor_name
from fieldtune.runtime import plugins
from fieldtune.runtime.plugins import choose_here, load_plugin, plugin_device

CPU, VITIS = "CPUExecutionProvider", "VitisAIExecutionProvider"
ort = pytest.importorskip("onnxruntime")


# What ONNX Runtime asks a plugin library for, by onnxruntime_ep_c_api.h; this one makes nothing for any machine.
NO_PROVIDER = """
#include <stddef.h>
void *CreateEpFactories(
    const char *name, const void *api, const void *logger, void **made, size_t most, size_t *count) {
  *count = 0;
  return NULL;
}
void *ReleaseEpFactory(void *factory) { return NULL; }
"""


def _profile(library, **changes):
    return altered(load_profile("vek280"), execution={"plugin_library": str(library)}, **changes)


@pytest.fixture
def without_a_device(tmp_path, lacks):
    """A library that ONNX Runtime loads, and that has nothing for this machine."""
    compiler = shutil.which("cc")
    if compiler is None:
        lacks("compiler", "no C compiler cc on PATH")
    if not hasattr(ort, "register_execution_provider_library"):
        pytest.skip(f"ONNX Runtime {ort.__version__} loads no providers from libraries; 1.23 and later do")
    source, library = tmp_path / "none.c", tmp_path / "none.so"
    source.write_text(NO_PROVIDER)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)


def test_a_library_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(
        ProviderUnavailable, match=rf"VitisAI.*vek280: the plugin library {tmp_path}/none\.so is not there"
    ):
        choose_here(_profile(tmp_path / "none.so"))


@pytest.mark.parametrize(("on_missing", "emulated"), [("emulate", True), ("cpu", False)])
def test_a_library_that_is_not_there_is_a_provider_that_is_missing(tmp_path, on_missing, emulated):
    choice = choose_here(_profile(tmp_path / "none.so"), on_missing=on_missing)
    assert (choice.provider, choice.requested, choice.emulated) == (CPU, VITIS, emulated)
    assert choice.plugin_library == ""
    # A typo in the path is not a provider that nobody has installed.
    assert choice.reason.startswith(f'{VITIS} is not available, and on_missing is "{on_missing}"')
    assert f"; the plugin library {tmp_path}/none.so is not there; correct execution.plugin_library" in choice.reason


def test_a_library_that_cannot_be_loaded_is_an_error_in_one_line(tmp_path):
    library = tmp_path / "broken.so"
    library.write_bytes(b"no library")
    takes_plugins = hasattr(ort, "register_execution_provider_library")
    says = "cannot load the plugin library" if takes_plugins else "needs an ONNX Runtime that loads providers"
    with pytest.raises(ProviderUnavailable, match=says) as caught:
        load_plugin(str(library))
    assert "\n" not in str(caught.value)
    assert str(library) in str(caught.value)


def test_a_request_for_another_provider_does_not_touch_the_library(tmp_path):
    choice = choose_here(_profile(tmp_path / "none.so"), CPU)
    assert (choice.provider, choice.reason) == (CPU, "as requested")


def test_a_library_without_a_provider_for_this_machine_says_so_and_names_the_processor(without_a_device):
    fact = (
        f"the plugin library {without_a_device} was loaded by ONNX Runtime {ort.__version__} and offers no provider "
        f"for this processor, {processor_name()}, or another device of this machine; "
        "use it on one that its vendor supports"
    )
    with pytest.raises(ProviderUnavailable) as caught:
        choose_here(_profile(without_a_device), on_missing="error")
    said = str(caught.value)
    assert said == (
        f"{VITIS} of the profile vek280: {fact}, or use --on-missing emulate to have the CPU emulate "
        f"{load_profile('vek280').accelerator.target}"
    )
    with pytest.raises(ProviderUnavailable, match=r"or use the CPU with --on-missing cpu$"):
        choose_here(_profile(without_a_device, accelerator=None), on_missing="error")
    # A request by name is never replaced, so nothing is offered in its place.
    with pytest.raises(ProviderUnavailable) as caught:
        choose_here(_profile(without_a_device), VITIS)
    assert str(caught.value) == f"{VITIS} of the profile vek280: {fact}"
    with pytest.raises(ProviderUnavailable) as caught:
        plugin_device(without_a_device, VITIS)
    assert str(caught.value) == fact
    choice = choose_here(_profile(without_a_device), on_missing="emulate")
    assert (choice.provider, choice.emulated) == (CPU, True)
    assert choice.reason.endswith(f"; {fact}")


def test_a_library_with_other_providers_names_them(monkeypatch):
    monkeypatch.setattr(plugins, "load_plugin", lambda library: ("OneProvider", "OtherProvider"))
    said = (
        r"has no VitisAIExecutionProvider, but OneProvider, OtherProvider; correct execution\.provider or execution\."
    )
    with pytest.raises(ProviderUnavailable, match=said):
        choose_here(_profile("some.so"), on_missing="error")
