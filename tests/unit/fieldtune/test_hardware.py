import os
import re

import pytest

from fieldtune.errors import InvalidProfile
from fieldtune.hardware import (
    Accelerator,
    CpuSpec,
    DetectSpec,
    DpuLimits,
    ExecutionSpec,
    MemorySpec,
    RuntimeSpec,
    Source,
    TrainingSpec,
    load_profile,
    profile_names,
    read_profile,
)

LEAST = 'format_version = "1.1"\nname = "board"\ntitle = "A board"\nsource = []\n'
VITIS = "[execution]\nprovider = 'VitisAIExecutionProvider'\n"
DPU = """
[accelerator]
target = "DPUCZDX8G_ISA1_B4096"
[accelerator.limits]
input_channel_parallel = 16
output_channel_parallel = 32
pixel_parallel = 8
kernel_min = 1
kernel_max = 16
stride_min = 1
stride_max = 8
bank_num = 16
bank_width = 16
bank_depth = 2048
activations = ["leaky_relu", "relu"]
"""


def test_the_generic_profile_assumes_nothing():
    profile = load_profile("cpu-generic")
    assert profile.cpu == CpuSpec()
    assert profile.memory == MemorySpec()
    assert profile.execution == ExecutionSpec()
    assert profile.runtime == RuntimeSpec()
    assert profile.accelerator is None


def test_the_raspberry_pi_has_its_figures_and_their_sources():
    profile = load_profile("raspberry-pi-5")
    assert (profile.cpu.architecture, profile.cpu.cores, profile.cpu.frequency_hz) == ("aarch64", 4, 2_400_000_000)
    assert "asimddp" in profile.cpu.features
    assert profile.memory.total_bytes == 8 * 2**30
    assert profile.runtime.threads == 4
    assert any("cpu.cores" in source.what for source in profile.sources)


def test_left_out_tables_take_the_defaults():
    profile = read_profile(LEAST, "board.toml")
    assert (profile.support, profile.description) == ("current", "")
    assert profile.training == TrainingSpec(batch_size=8, gradient_accumulation=1, max_length=None)
    assert profile.detect == DetectSpec()
    assert profile.sources == ()


def test_a_file_in_format_1_0_is_read_as_it_was():
    text = (
        LEAST.replace("1.1", "1.0")
        + VITIS
        + "options = { config_file = 'a', my_key = 'b' }\n[accelerator]\ntarget = 'X'"
    )
    profile = read_profile(text, "board.toml")
    assert profile.format_version == "1.0"
    assert profile.execution == ExecutionSpec(
        provider="VitisAIExecutionProvider", options={"config_file": "a", "my_key": "b"}
    )
    assert profile.accelerator == Accelerator(target="X", family="npu")


def test_every_key_is_read():
    text = """
format_version = "1.1"
name = "board"
title = "A board"
support = "legacy"
description = "An old board."
[cpu]
architecture = "x86_64"
model = "M"
cores = 6
frequency_hz = 3
features = ["avx2"]
[memory]
total_bytes = 10
available_for_app_bytes = 7
[execution]
provider = "VitisAIExecutionProvider"
stack = "vitis-ai-3.5"
plugin_library = "/usr/lib/ep.so"
options = { config_file = "a.json" }
on_missing = "cpu"
min_offload = 1
max_partitions = 2
compile_timeout_s = 90
simulate_latency = true
compile_s = 60
[runtime]
ort_version = "1.17"
threads = 2
prepacking = false
arena = false
arena_extend = "as-requested"
memory_pattern = false
graph_optimization = "basic"
[training]
batch_size = 2
gradient_accumulation = 4
max_length = 64
[accelerator]
target = "T"
peak_tops = 61
batch = 14
family = "dpu"
precision = "xint8"
activation_type = "uint8"
zero_point = 128
opset_min = 13
opset_max = 18
memory_bytes = 9
extra = { cores = 3 }
[accelerator.limits]
input_channel_parallel = 1
output_channel_parallel = 2
pixel_parallel = 3
kernel_min = 4
kernel_max = 5
kernel_area_max = 15
stride_min = 6
stride_max = 7
bank_num = 8
bank_width = 9
bank_depth = 10
activations = ["relu6"]
channel_groups_max = 11
leaky_relu_alpha = 0.5
shift_cut_min = 12
shift_cut_max = 13
add_shift_read_max = 14
[detect]
device_tree = ["Board"]
pci_ids = ["1022:17f0"]
[[source]]
what = "cpu.model"
where = "the label"
"""
    profile = read_profile(text, "board.toml")
    assert (profile.support, profile.description) == ("legacy", "An old board.")
    assert profile.cpu == CpuSpec(architecture="x86_64", model="M", cores=6, frequency_hz=3, features=("avx2",))
    assert profile.memory == MemorySpec(total_bytes=10, available_for_app_bytes=7)
    assert profile.execution == ExecutionSpec(
        provider="VitisAIExecutionProvider",
        options={"config_file": "a.json"},
        on_missing="cpu",
        stack="vitis-ai-3.5",
        plugin_library="/usr/lib/ep.so",
        min_offload=1.0,
        max_partitions=2,
        compile_timeout_s=90,
        simulate_latency=True,
        compile_s=60.0,
    )
    assert profile.runtime == RuntimeSpec(
        ort_version="1.17",
        threads=2,
        prepacking=False,
        arena=False,
        arena_extend="as-requested",
        memory_pattern=False,
        graph_optimization="basic",
    )
    assert profile.training == TrainingSpec(batch_size=2, gradient_accumulation=4, max_length=64)
    assert profile.accelerator == Accelerator(
        target="T",
        family="dpu",
        peak_tops=61.0,
        batch=14,
        precision="xint8",
        activation_type="uint8",
        zero_point=128,
        opset_min=13,
        opset_max=18,
        memory_bytes=9,
        limits=DpuLimits(
            input_channel_parallel=1,
            output_channel_parallel=2,
            pixel_parallel=3,
            kernel_min=4,
            kernel_max=5,
            kernel_area_max=15,
            stride_min=6,
            stride_max=7,
            bank_num=8,
            bank_width=9,
            bank_depth=10,
            activations=("relu6",),
            channel_groups_max=11,
            leaky_relu_alpha=0.5,
            shift_cut_min=12,
            shift_cut_max=13,
            add_shift_read_max=14,
        ),
        extra={"cores": 3},
    )
    assert profile.detect == DetectSpec(device_tree=("Board",), pci_ids=("1022:17f0",))
    assert profile.sources == (Source(what="cpu.model", where="the label"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", "board.toml: not TOML"),
        (LEAST.replace("1.1", "2.0"), "board.toml: format_version is 2.0"),
        (LEAST.replace("1.1", "one"), "board.toml: format_version is 'one'"),
        (LEAST.replace("title", "titel"), "board.toml: the key 'title' is missing"),
        (LEAST.replace("source = []", ""), "board.toml: the key 'source' is missing"),
        (LEAST + "colour = 1", "board.toml: unknown key 'colour'"),
        (LEAST + "[cpu]\ncore = 4", "board.toml: cpu: unknown key 'core'; known: architecture, cores"),
        (LEAST + "[cpu]\ncores = 4.0", "board.toml: cpu: 'cores' is a number (4.0); expected an integer"),
        (LEAST + "[cpu]\ncores = -1", "board.toml: cpu: 'cores' is -1; expected at least 0"),
        (LEAST + "[cpu]\narchitecture = 'mips'", "'architecture' is 'mips'; expected one of x86_64, aarch64, any"),
        (LEAST + "[execution]\non_missing = 'ignore'", "expected one of error, emulate, cpu"),
        (LEAST + "[execution.options]\nopt_level = 2", "board.toml: execution: options: 'opt_level' is an integer (2)"),
        (LEAST + "[runtime]\nort_version = 'new'", "board.toml: runtime: 'ort_version' is 'new'"),
        (
            LEAST + '[runtime]\narena_extend = "double"',
            "board.toml: runtime: 'arena_extend' is 'double'; expected one of power-of-two, as-requested",
        ),
        (LEAST + "[runtime]\narena = 1", "board.toml: runtime: 'arena' is an integer (1); expected true or false"),
        (LEAST + "[training]\nbatch_size = 0", "board.toml: training: 'batch_size' is 0; expected at least 1"),
        (LEAST + "[accelerator]\npeak_tops = 1", "board.toml: accelerator: the key 'target' is missing"),
        (LEAST + "[execution]\ncompile_s = -1", "board.toml: execution: 'compile_s' is -1; expected a positive number"),
        (
            LEAST + "[execution]\ncompile_s = 90",
            "'compile_s' is 90; only 'simulate_latency = true' makes use of it",
        ),
        (
            LEAST + "[execution]\nsimulate_latency = true\n[accelerator]\ntarget = 'T'",
            "'simulate_latency' is true; it needs accelerator.peak_tops",
        ),
        (
            LEAST + "[accelerator]\ntarget = 'T'\npeak_tops = -1",
            "accelerator: 'peak_tops' is -1; expected a positive number",
        ),
        (LEAST + "[accelerator]\ntarget = 'T'\nfamily = 'gpu'", "'family' is 'gpu'; expected one of dpu, npu"),
        (LEAST + "[accelerator]\ntarget = 'T'\nzero_point = 128", "'zero_point' is 128; int8 holds -128 to 127"),
        (
            LEAST + "[accelerator]\ntarget = 'T'\nopset_min = 19\nopset_max = 17",
            "board.toml: accelerator: 'opset_min' is 19; expected at most opset_max, 17",
        ),
        (
            LEAST + DPU.replace('"relu"', '"gelu"'),
            "accelerator: limits: 'activations' holds 'gelu'; expected some of relu",
        ),
        (LEAST + DPU.replace("kernel_max = 16", ""), "accelerator: limits: the key 'kernel_max' is missing"),
        (LEAST + DPU.replace("kernel_max = 16", "kernel_max = 0"), "limits: 'kernel_max' is 0; expected at least 1"),
        (LEAST + DPU.replace("stride_min = 1", "stride_min = 9"), "'stride_min' is 9; expected at most stride_max, 8"),
        (LEAST + DPU.replace("DPUCZDX8G_ISA1_B4096", "X2"), "'limits' are those of a dpu; 'family' is 'npu'"),
        (LEAST + "[execution]\nmin_offload = 80", "execution: 'min_offload' is 80; expected a share, 0 to 1"),
        (
            LEAST + "[execution]\nmin_offload = 0.5",
            "execution: 'min_offload' is 0.5; CPUExecutionProvider without an accelerator offloads nothing",
        ),
        (
            LEAST + "[execution]\nstack = 'vitis-ai-7'",
            "'stack' is 'vitis-ai-7'; expected one of vitis-ai-3.0, vitis-ai-3.5",
        ),
        (
            LEAST + VITIS,
            "board.toml: execution: the key 'stack' is missing; VitisAIExecutionProvider needs one of vitis",
        ),
        (
            LEAST + "[execution]\nstack = 'vitis-ai-3.5'",
            "'stack' is 'vitis-ai-3.5', of VitisAIExecutionProvider; 'provider' is 'CPUExecutionProvider'",
        ),
        (LEAST + VITIS + "stack = 'vitis-ai-3.5'", "the table 'accelerator' is missing; the stack vitis-ai-3.5"),
        (
            LEAST + VITIS + "stack = 'ryzen-ai-1.6'\n" + DPU,
            "board.toml: accelerator: 'family' is 'dpu'; ryzen-ai-1.6 drives: npu",
        ),
        (
            LEAST + VITIS + "stack = 'vitis-ai-3.5'\noptions = { cache_dir = 'c' }\n" + DPU,
            "board.toml: 2 faults:\n  - execution: options: 'cache_dir' is of",
        ),
        (LEAST + "[detect]\npci_ids = ['1022:17F0']", "detect: 'pci_ids' holds '1022:17F0'; expected vendor:device"),
        (LEAST + "[detect]\ndevice_tree = ['']", "detect: 'device_tree' holds an empty text"),
        (LEAST.replace("[]", "[{what = 'x'}]"), "board.toml: source[0]: the key 'where' is missing"),
    ],
)
def test_a_faulty_profile_is_refused_with_file_and_key(text, message):
    with pytest.raises(InvalidProfile, match=re.escape(message)):
        read_profile(text, "board.toml")


def test_a_later_minor_version_is_read_with_a_warning_and_its_keys_ignored():
    text = LEAST.replace("1.1", "1.7") + "colour = 'red'\n[cpu]\ncores = 2\ncaches = 3\n"
    with pytest.warns(UserWarning, match=r"format 1\.7 is later than 1\.1"):
        profile = read_profile(text, "board.toml")
    assert profile.cpu.cores == 2


def test_an_unknown_name_brings_the_nearest_and_the_list():
    with pytest.raises(InvalidProfile) as caught:
        load_profile("rpi5")
    assert "Did you mean raspberry-pi-5?" in str(caught.value)
    assert "There are: cpu-generic, jetson-orin-nano, " in str(caught.value)
    with pytest.raises(InvalidProfile, match=r"no hardware profile 'zzz'\. There are: cpu-generic"):
        load_profile("zzz")


def test_a_path_is_read_whatever_its_folder(tmp_path):
    path = tmp_path / "board.toml"
    path.write_text(LEAST, encoding="utf-8")
    assert load_profile(path).title == "A board"
    assert load_profile(str(path)).title == "A board"


def test_a_path_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InvalidProfile, match=r"none\.toml: cannot be read"):
        load_profile(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidProfile, match=r"bytes\.toml: cannot be read"):
        load_profile(tmp_path / "bytes.toml")


def test_a_copy_that_kept_the_old_name_is_refused(tmp_path):
    (tmp_path / "mine.toml").write_text(LEAST, encoding="utf-8")
    with pytest.raises(InvalidProfile, match="'name' is 'board'; expected 'mine'"):
        load_profile(tmp_path / "mine.toml")


def test_folders_of_the_environment_come_first(tmp_path, monkeypatch):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder, title in ((first, "First"), (second, "Second")):
        folder.mkdir()
        (folder / "board.toml").write_text(LEAST.replace("A board", title), encoding="utf-8")
    own = LEAST.replace("board", "cpu-generic").replace("A cpu-generic", "Mine")
    (second / "cpu-generic.toml").write_text(own, encoding="utf-8")
    monkeypatch.setenv("FIELDTUNE_PROFILES", f"{first}{os.pathsep}{second}")
    assert {"board", "cpu-generic", "raspberry-pi-5"} <= set(profile_names())
    assert load_profile("board").title == "First"
    assert load_profile("cpu-generic").title == "Mine"


def test_a_folder_of_the_environment_that_is_none_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDTUNE_PROFILES", str(tmp_path / "none"))
    with pytest.raises(InvalidProfile, match=r"FIELDTUNE_PROFILES names .*none, which is not a folder"):
        load_profile("cpu-generic")
