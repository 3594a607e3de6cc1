"""Hardware profiles: what is written is read, and every fault is told with its file and key."""

import dataclasses
import math
import re

import pytest

from builders import full_profile, profile, profile_text, toml_text
from fieldtune.errors import InvalidProfile
from fieldtune.hardware import Accelerator, DetectSpec, ExecutionSpec, TrainingSpec
from fieldtune.hardware.reading import read_profile, tomllib
from mutations import faults_unnamed, replaced, unknown_unnamed

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


FULL = tomllib.loads(profile_text(full_profile()))
DEFAULT = [(name,) for name in ("cpu", "memory", "execution", "runtime", "training", "detect")]
"""Tables whose keys may all be left out."""
DEFAULTS = {
    *(field.name for field in dataclasses.fields(Accelerator) if field.name != "target"),
    *("kernel_area_max", "channel_groups_max", "leaky_relu_alpha", "shift_cut_min", "shift_cut_max"),
    "add_shift_read_max",
}
"""Of an accelerator: all but its target, and what every DPU has."""


def read(data):
    return read_profile(toml_text(data), "board.toml")


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


@pytest.mark.parametrize("made", [profile(), full_profile()], ids=["least", "full"])
def test_what_is_written_is_read(made):
    assert read_profile(profile_text(made), "board.toml") == made


def test_the_full_profile_leaves_nothing_at_its_default():
    """So that a key that was not read would be seen above."""
    least, full = profile(), full_profile()
    for field in dataclasses.fields(full):
        if field.name not in ("format_version", "name", "title"):
            part, default = getattr(full, field.name), getattr(least, field.name)
            assert part != default
            if dataclasses.is_dataclass(default):
                assert all(getattr(part, one.name) != getattr(default, one.name) for one in dataclasses.fields(part))


def test_every_key_that_is_missing_or_of_another_kind_is_named_with_its_place():
    found = faults_unnamed(
        FULL,
        read,
        InvalidProfile,
        "board.toml",
        free=[("accelerator", "extra")],
        names=[("execution", "options"), *DEFAULT],
        null=False,
        optional={"support", "description", "accelerator", *(table for (table,) in DEFAULT)},
    )
    # What is left out has its default, for which another part may then not fit.
    assert [(path, change) for path, change, _ in found if not (change == "dropped" and path[-1] in DEFAULTS)] == []


def test_every_unknown_key_is_named_with_its_place():
    free = [("accelerator", "extra"), ("execution", "options")]
    assert unknown_unnamed(FULL, read, InvalidProfile, "board.toml", free=free) == []


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


@pytest.mark.parametrize(
    "text",
    [
        *("x = ", "x = [", "= 1", "x = 1\nx = 2", "x = '\0'", "x = 1900-99-99"),
        pytest.param("[" * 5000, id="brackets"),
        pytest.param(f"x = {'[' * 5000}", id="too deep"),
        pytest.param(f"x = {'9' * 5000}", id="too long"),
    ],
)
def test_what_is_no_toml(text):
    with pytest.raises(InvalidProfile, match=r"^board\.toml: not TOML: ."):
        read_profile(text, "board.toml")


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (
            ("cpu", "cores"),
            1 << 64,
            "cpu: 'cores' is an integer (of 65 bits); expected one that fits into 64 bits with its sign",
        ),
        (("cpu", "gflops"), math.nan, "cpu: 'gflops' is a number (nan); expected a finite one"),
        (("accelerator", "peak_tops"), math.inf, "accelerator: 'peak_tops' is a number (inf); expected a finite one"),
        (("execution", "min_offload"), -0.5, "execution: 'min_offload' is -0.5; expected a share, 0 to 1"),
        (("execution", "compile_timeout_s"), 0, "execution: 'compile_timeout_s' is 0; expected at least 1"),
        (("execution", "max_partitions"), -1, "execution: 'max_partitions' is -1; expected at least 0"),
        (("runtime", "ort_version"), "1.²", "runtime: 'ort_version' is '1.²'; expected numbers, as '1.16.3'"),
        (("runtime", "ort_version"), "1.", "runtime: 'ort_version' is '1.'; expected numbers"),
        (("runtime", "threads"), -1, "runtime: 'threads' is -1; expected at least 0"),
        (("training", "max_length"), -1, "training: 'max_length' is -1; expected at least 0"),
        (("training", "backend"), "torch", "training: 'backend' is 'torch'; expected one of auto, portable"),
        (("accelerator", "batch"), 0, "accelerator: 'batch' is 0; expected at least 1"),
        (("accelerator", "limits", "add_shift_read_max"), -1, "limits: 'add_shift_read_max' is -1; expected at least"),
    ],
)
def test_what_is_out_of_range_is_refused(path, value, says):
    with pytest.raises(InvalidProfile) as caught:
        read(replaced(FULL, path, value))
    assert str(caught.value).startswith("board.toml: ")
    assert says in str(caught.value)


@pytest.mark.parametrize("value", ["1979-05-27", "[07:32:00]", f"0x{'f' * 5000}"])
def test_an_extra_that_no_report_could_show_is_refused(value):
    text = LEAST + f"[accelerator]\ntarget = 'T'\nextra = {{ when = {value} }}"
    with pytest.raises(InvalidProfile, match=r"board\.toml: accelerator: 'extra' has no form in JSON \("):
        read_profile(text, "board.toml")


def test_a_later_minor_version_is_read_with_a_warning_and_its_keys_ignored():
    text = LEAST.replace("1.1", "1.7") + "colour = 'red'\n[cpu]\ncores = 2\ncaches = 3\n"
    with pytest.warns(UserWarning, match=r"format 1\.7 is later than 1\.1"):
        profile = read_profile(text, "board.toml")
    assert profile.cpu.cores == 2
