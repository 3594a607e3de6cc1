import pytest

from builders import altered
from fieldtune.errors import ProviderUnavailable
from fieldtune.hardware import load_profile
from fieldtune.hardware.machine import usable_cores
from fieldtune.runtime.providers import SessionSettings, choose_provider, cpu_choice

CPU, VITIS = "CPUExecutionProvider", "VitisAIExecutionProvider"


def _vitis_profile(on_missing):
    profile = load_profile("raspberry-pi-5")
    execution = {"provider": VITIS, "options": {"config_file": "a.json"}, "on_missing": on_missing}
    return altered(profile, name="npu", execution=execution)


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


@pytest.mark.parametrize(
    ("threads", "cores", "expected"),
    [(0, None, 0), (0, 1, 1), (3, 4, 3), (3, None, 3), (0, 10_000, usable_cores())],
)
def test_zero_threads_become_the_stated_cores_of_which_no_more_than_there_are(threads, cores, expected):
    profile = altered(load_profile("cpu-generic"), cpu={"cores": cores}, runtime={"threads": threads})
    assert choose_provider(profile, [CPU]).session_settings.intra_op_threads == expected


def test_a_missing_provider_is_an_error_that_says_what_was_found_and_what_to_install():
    with pytest.raises(ProviderUnavailable) as caught:
        choose_provider(load_profile("vek280"), ["AzureExecutionProvider", CPU])
    assert str(caught.value) == (
        "VitisAIExecutionProvider is what the profile vek280 asks for, but the installed ONNX Runtime has only: "
        "AzureExecutionProvider, CPUExecutionProvider; install AMD's Vitis AI 3.5 for this board: "
        "vitis_ai_2023.1-r3.5.0.tar.gz and the wheels voe and onnxruntime_vitisai 1.16.0, which replace onnxruntime, "
        "or use --on-missing emulate to have the CPU emulate DPUCV2DX8G_ISA1_C20B14; nothing was run"
    )


@pytest.mark.parametrize(
    ("profile", "package"),
    [
        ("kv260", "Vitis AI 3.0"),
        ("zcu104", "Vitis AI 3.0"),
        ("vek280", "Vitis AI 3.5"),
        ("ryzen-ai-phoenix", "Ryzen AI Software 1.6"),
        ("ryzen-ai-strix", "Ryzen AI Software 1.6"),
    ],
)
def test_what_to_install_is_what_the_profiles_stack_needs(profile, package):
    with pytest.raises(ProviderUnavailable, match=f"install AMD's {package}"):
        choose_provider(load_profile(profile), [CPU])


def test_a_provider_without_an_accelerator_can_be_replaced_by_the_cpu_only():
    profile = altered(load_profile("cpu-generic"), execution={"provider": "CUDAExecutionProvider"})
    with pytest.raises(ProviderUnavailable, match="onnxruntime-gpu instead of onnxruntime, or use the CPU with"):
        choose_provider(profile, [CPU])
    with pytest.raises(ProviderUnavailable, match=r"no \[accelerator\] that could be emulated: --on-missing cpu"):
        choose_provider(profile, [CPU], on_missing="emulate")


def test_on_missing_cpu_takes_the_cpu_and_says_so():
    choice = choose_provider(_vitis_profile("cpu"), [CPU])
    assert (choice.provider, choice.requested, choice.emulated, choice.options) == (CPU, VITIS, False, {})
    assert (
        choice.reason == 'VitisAIExecutionProvider is not available, and on_missing is "cpu", as the profile npu says'
    )


def test_on_missing_emulate_takes_the_cpu_for_the_accelerator():
    choice = choose_provider(load_profile("vek280"), [CPU], on_missing="emulate")
    assert (choice.provider, choice.requested, choice.emulated, choice.options) == (CPU, VITIS, True, {})
    assert str(choice) == (
        "CPUExecutionProvider, emulated, VitisAIExecutionProvider is not available, and on_missing is "
        '"emulate", as was asked for: the CPU emulates DPUCV2DX8G_ISA1_C20B14'
    )


def test_nothing_is_emulated_where_the_provider_is_there():
    choice = choose_provider(load_profile("vek280"), [VITIS, CPU], on_missing="emulate")
    assert (choice.provider, choice.emulated) == (VITIS, False)


def test_what_is_asked_for_wins_over_the_profile():
    assert choose_provider(_vitis_profile("error"), [CPU], on_missing="cpu").provider == CPU
    with pytest.raises(ProviderUnavailable):
        choose_provider(_vitis_profile("cpu"), [CPU], on_missing="error")


def test_values_of_options_are_not_in_a_report():
    profile = _vitis_profile("error")
    options = {**profile.execution.options, "encryption_key": "s3cret"}
    profile = altered(profile, execution={"options": options})
    report = choose_provider(profile, [VITIS, CPU]).to_json()
    assert report["options"] == ["config_file", "encryption_key"]
    assert report["emulated"] is False
    assert "s3cret" not in str(report)


@pytest.mark.parametrize("profile", ["vek280", "cpu-generic"])
def test_what_is_behind_the_prefix_runs_on_the_cpu(profile):
    choice = cpu_choice(load_profile(profile))
    assert (choice.provider, choice.emulated, choice.options) == (CPU, False, {})
    assert choice.session_settings == choose_provider(load_profile(profile), [VITIS, CPU]).session_settings


@pytest.mark.parametrize("on_missing", ["error", "cpu", "emulate"])
def test_a_request_is_never_replaced(on_missing):
    with pytest.raises(ProviderUnavailable, match=r"CUDAExecutionProvider was requested.*onnxruntime-gpu"):
        choose_provider(_vitis_profile(on_missing), [VITIS, CPU], "CUDAExecutionProvider")
