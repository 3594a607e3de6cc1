"""Whether the parts of a profile fit each other: every fault at once, and none of what fits."""

import pytest

from builders import VITIS, altered, full_profile, profile
from fieldtune.hardware import Accelerator
from fieldtune.hardware.fit import profile_faults


@pytest.mark.parametrize("made", [profile(), full_profile()], ids=["least", "full"])
def test_what_fits_has_no_fault(made):
    assert profile_faults(made) == []


def test_faults_of_several_parts_are_told_together():
    made = altered(
        full_profile(),
        execution={"options": {"cacheKey": "a", "nonsense": "b"}, "min_offload": 1.0},
        accelerator={
            "family": "npu",
            "zero_point": 256,
            "opset_min": 19,
            "limits": {"kernel_min": 17, "stride_min": 9, "shift_cut_min": 16},
        },
    )
    faults = profile_faults(made)
    assert [fault.partition(";")[0].split(": found")[0] for fault in faults if "options" not in fault] == [
        "accelerator: 'family' is 'npu'",
        "accelerator: 'zero_point' is 256",
        "accelerator: 'opset_min' is 19",
        "accelerator: 'limits' are those of a dpu",
        "accelerator: limits: 'kernel_min' is 17",
        "accelerator: limits: 'stride_min' is 9",
        "accelerator: limits: 'shift_cut_min' is 16",
    ]
    unknown, missing = (fault for fault in faults if fault.startswith("execution: options: "))
    assert unknown == "execution: options: unknown option 'nonsense'; vitis-ai-3.5 has: cacheDir, cacheKey, config_file"
    assert missing.startswith("execution: options: 'config_file' is missing; vitis-ai-3.5 needs it")


@pytest.mark.parametrize(("kind", "point", "fits"), [
    ("int8", -128, True), ("int8", -129, False), ("int8", 127, True), ("int8", 128, False),
    ("uint8", 0, True), ("uint8", -1, False), ("uint8", 255, True), ("uint8", 256, False),
])  # fmt: skip
def test_a_zero_point_is_a_number_of_its_type(kind, point, fits):
    made = profile(accelerator=Accelerator(target="T", family="npu", activation_type=kind, zero_point=point))
    assert (profile_faults(made) == []) is fits


def test_a_simulation_needs_a_peak_rate_and_alone_makes_use_of_a_compiles_time():
    (fault,) = profile_faults(altered(profile(), execution={"simulate_latency": True}))
    assert fault.startswith("execution: 'simulate_latency' is true; it needs accelerator.peak_tops")
    (fault,) = profile_faults(altered(profile(), execution={"compile_s": 2.5}))
    assert fault == "execution: 'compile_s' is 2.5; only 'simulate_latency = true' makes use of it"


def test_a_stack_belongs_to_its_provider_and_needs_an_accelerator():
    (fault,) = profile_faults(altered(profile(), execution={"stack": "vitis-ai-3.5"}))
    assert fault.startswith(f"execution: 'stack' is 'vitis-ai-3.5', of {VITIS}; 'provider' is 'CPUExecutionProvider'")
    without = altered(full_profile(), accelerator=None, execution={"simulate_latency": False, "compile_s": 0.0})
    assert profile_faults(without) == ["the table 'accelerator' is missing; the stack vitis-ai-3.5 compiles for one"]
    (fault,) = profile_faults(altered(full_profile(), execution={"stack": "", "options": {"anything": "x"}}))
    assert fault.startswith(f"execution: the key 'stack' is missing; {VITIS} needs one of vitis-ai-3.0")
    assert profile_faults(altered(full_profile(), format_version="1.0", execution={"stack": ""})) == []
