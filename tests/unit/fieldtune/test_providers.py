import dataclasses

import pytest

from fieldtune.errors import ProviderUnavailable
from fieldtune.hardware import load_profile
from fieldtune.providers import SessionSettings, choose_provider

CPU, VITIS = "CPUExecutionProvider", "VitisAIExecutionProvider"


def _vitis_profile(on_missing):
    profile = load_profile("raspberry-pi-5")
    execution = dataclasses.replace(
        profile.execution, provider=VITIS, options={"config_file": "a.json"}, on_missing=on_missing
    )
    return dataclasses.replace(profile, name="npu", execution=execution)


def test_the_profiles_provider_with_its_options_and_settings():
    choice = choose_provider(_vitis_profile("error"), [VITIS, CPU])
    assert (choice.provider, choice.options) == (VITIS, {"config_file": "a.json"})
    assert choice.reason == "as the profile npu says"
    assert choice.session_settings == SessionSettings(
        intra_op_threads=4, prepacking=True, arena=True, memory_pattern=True, graph_optimization="all"
    )


def test_a_request_wins_and_does_not_inherit_another_providers_options():
    choice = choose_provider(_vitis_profile("error"), [VITIS, CPU], CPU)
    assert (choice.provider, choice.options, choice.reason) == (CPU, {}, "as requested")


@pytest.mark.parametrize(("threads", "cores", "expected"), [(0, None, 0), (0, 4, 4), (3, 4, 3), (3, None, 3)])
def test_zero_threads_become_the_stated_cores(threads, cores, expected):
    profile = load_profile("cpu-generic")
    profile = dataclasses.replace(
        profile,
        cpu=dataclasses.replace(profile.cpu, cores=cores),
        runtime=dataclasses.replace(profile.runtime, threads=threads),
    )
    assert choose_provider(profile, [CPU]).session_settings.intra_op_threads == expected


def test_a_missing_provider_is_an_error_that_says_what_to_install():
    with pytest.raises(ProviderUnavailable) as caught:
        choose_provider(_vitis_profile("error"), ["AzureExecutionProvider", CPU])
    assert str(caught.value) == (
        "VitisAIExecutionProvider is what the profile npu asks for, but the installed ONNX Runtime has only: "
        "AzureExecutionProvider, CPUExecutionProvider; install AMD's Vitis AI or Ryzen AI package for this device; it "
        "replaces onnxruntime, or request CPUExecutionProvider"
    )


def test_on_missing_cpu_takes_the_cpu_and_says_so():
    choice = choose_provider(_vitis_profile("cpu"), [CPU])
    assert (choice.provider, choice.options) == (CPU, {})
    assert choice.reason == 'VitisAIExecutionProvider is not available, and the profile npu says on_missing = "cpu"'


def test_emulation_is_refused_by_name():
    with pytest.raises(ProviderUnavailable, match="needs an emulation profile"):
        choose_provider(_vitis_profile("emulate"), [CPU])


@pytest.mark.parametrize("on_missing", ["error", "cpu", "emulate"])
def test_a_request_is_never_replaced(on_missing):
    with pytest.raises(ProviderUnavailable, match=r"CUDAExecutionProvider was requested.*onnxruntime-gpu"):
        choose_provider(_vitis_profile(on_missing), [VITIS, CPU], "CUDAExecutionProvider")
