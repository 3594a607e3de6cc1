import dataclasses

import pytest

from fieldtune.errors import ProviderUnavailable
from fieldtune.hardware import load_profile
from fieldtune.runtime.plugins import choose_here, load_plugin

CPU, VITIS = "CPUExecutionProvider", "VitisAIExecutionProvider"
ort = pytest.importorskip("onnxruntime")


def _profile(library):
    profile = load_profile("vek280")
    return dataclasses.replace(profile, execution=dataclasses.replace(profile.execution, plugin_library=str(library)))


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
