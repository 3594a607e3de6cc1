"""The profiles that come along: each loads, says where every figure is from, and refuses another era's options."""

import dataclasses
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
    TrainingSpec,
    load_profile,
    profile_path,
    read_profile,
)
from fieldtune.hardware.reading import tomllib
from fieldtune.preflight.step_time import cpu_rate

FOLDER = profile_path("cpu-generic").parent
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))
BOARDS = {
    "kv260": ("aarch64", 4, "vitis-ai-3.0", "DPUCZDX8G_ISA1_B4096", 1, "legacy"),
    "zcu104": ("aarch64", 4, "vitis-ai-3.0", "DPUCZDX8G_ISA1_B4096", 1, "legacy"),
    "vck190": ("aarch64", 2, "vitis-ai-3.0", "DPUCVDX8G_ISA3_C32B6", 6, "legacy"),
    "vek280": ("aarch64", 2, "vitis-ai-3.5", "DPUCV2DX8G_ISA1_C20B14", 14, "current"),
    "ryzen-ai-phoenix": ("x86_64", 8, "ryzen-ai-1.6", "AMD_AIE2_4x4_Overlay", 1, "current"),
    "ryzen-ai-strix": ("x86_64", 12, "ryzen-ai-1.6", "AMD_AIE2P_4x4_Overlay", 1, "current"),
}
SPECS = {
    "cpu": CpuSpec,
    "memory": MemorySpec,
    "execution": ExecutionSpec,
    "runtime": RuntimeSpec,
    "training": TrainingSpec,
    "accelerator": Accelerator,
    "accelerator.limits": DpuLimits,
    "detect": DetectSpec,
}


def _toml(name):
    return tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def _stated(table, where=""):
    """Return the dotted keys of figures that differ from what a profile says by leaving them out."""
    kind = SPECS.get(where)
    defaults = {field.name: field.default for field in dataclasses.fields(kind)} if kind else {}
    found = []
    for key, value in table.items():
        path = f"{where}.{key}" if where else key
        if path in SPECS:
            found += _stated(value, path)
        elif value != defaults.get(key, dataclasses.MISSING):
            found.append(path)
    return found


def test_the_devices_that_are_promised_are_there():
    promised = {"kr260", "raspberry-pi-5", "jetson-orin-nano", "cpu-generic", *BOARDS}
    assert promised <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_that_is_no_default_is_covered_by_a_source_and_every_source_by_a_key(name):
    data = _toml(name)
    text = ("format_version", "name", "title", "description", "source")
    stated = _stated({key: value for key, value in data.items() if key not in text and data[key] != "current"})
    covered = [key for source in data["source"] for key in source["what"].split(", ")]
    open_figures = [
        key for key in stated if not any(key == source or key.startswith(f"{source}.") for source in covered)
    ]
    assert open_figures == []
    profile = load_profile(name)
    for source in covered:
        part = profile
        for key in source.split("."):
            part = getattr(part, key)
    assert all(len(source["where"]) > 10 for source in data["source"])


def test_a_figure_without_a_source_would_be_seen():
    data = {"support": "legacy", "cpu": {"architecture": "any", "cores": 4}, "runtime": {"threads": 0, "arena": False}}
    assert _stated(data) == ["support", "cpu.cores", "runtime.arena"]


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_is_in_the_current_format_and_describes_its_device(name):
    profile = load_profile(name)
    assert profile.format_version == "1.1"
    assert len(profile.description) > 30
    assert profile.execution.on_missing == "error"
    recognized = profile.detect.device_tree or profile.detect.pci_ids
    assert bool(recognized) == (name != "cpu-generic")


@pytest.mark.parametrize("name", NAMES)
def test_threads_are_the_cores_where_they_are_stated(name):
    profile = load_profile(name)
    assert profile.runtime.threads in (0, profile.cpu.cores)


@pytest.mark.parametrize("name", NAMES)
def test_the_time_of_a_step_can_be_estimated_for_every_named_processor(name):
    rate, basis = cpu_rate(load_profile(name).cpu)
    assert (rate is None) == (name == "cpu-generic"), basis


@pytest.mark.parametrize("name", BOARDS)
def test_accelerator_profiles_have_their_figures(name):
    profile = load_profile(name)
    accelerator = profile.accelerator
    found = (
        profile.cpu.architecture,
        profile.cpu.cores,
        profile.execution.stack,
        accelerator.target,
        accelerator.batch,
    )
    assert (*found, profile.support) == BOARDS[name]
    assert profile.execution.provider == "VitisAIExecutionProvider"
    assert accelerator.precision == "xint8"
    dpu = name not in ("ryzen-ai-phoenix", "ryzen-ai-strix")
    assert (accelerator.family == "dpu") == dpu == (accelerator.limits is not None)
    assert (accelerator.activation_type, accelerator.zero_point) == (("int8", 0) if dpu else ("uint8", 128))
    assert accelerator.opset_max == (18 if dpu else 17)
    assert 0.5 <= profile.execution.min_offload <= 1


@pytest.mark.parametrize(
    ("name", "cores", "frequency_hz"),
    [("kv260", 1, 300e6), ("zcu104", 2, 300e6), ("vck190", 6, 1.25e9), ("vek280", 14, 1.15e9)],
)
def test_peak_rates_follow_from_parallelism_and_clock(name, cores, frequency_hz):
    accelerator = load_profile(name).accelerator
    limits = accelerator.limits
    per_cycle = 2 * limits.input_channel_parallel * limits.output_channel_parallel * limits.pixel_parallel
    assert accelerator.peak_tops == pytest.approx(cores * per_cycle * frequency_hz / 1e12, rel=1e-3)


def test_limits_are_those_of_the_targets():
    def row(name):
        limits = load_profile(name).accelerator.limits
        parallel = (limits.input_channel_parallel, limits.output_channel_parallel, limits.pixel_parallel)
        bank = (limits.bank_num, limits.bank_width, limits.bank_depth)
        return (
            parallel,
            (limits.kernel_max, limits.stride_max),
            bank,
            len(limits.activations),
            limits.channels_max,
        )

    assert row("kv260") == row("zcu104") == ((16, 16, 8), (16, 8), (16, 16, 2048), 3, 4096)
    assert row("vck190") == ((16, 32, 8), (16, 8), (16, 16, 8192), 5, 4096)
    assert row("vek280") == ((32, 32, 4), (16, 16), (4, 16, 32768), 5, 8192)
    areas = {name: load_profile(name).accelerator.limits.kernel_area_max for name in ("kv260", "vck190", "vek280")}
    assert areas == {"kv260": None, "vck190": 64, "vek280": 13760 // 256}
    limits = load_profile("vek280").accelerator.limits
    assert (limits.shift_cut_min, limits.shift_cut_max, limits.add_shift_read_max) == (0, 16, 7)
    assert limits.leaky_relu_alpha == 26 / 256


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


def test_the_kr260_runs_on_the_cpu_and_says_why():
    profile = load_profile("kr260")
    assert profile.execution.provider == "CPUExecutionProvider"
    assert profile.accelerator is None
    assert "never made it a target" in profile.description


@pytest.mark.parametrize(
    ("name", "line", "eras", "right"),
    [
        ("kv260", 'cache_dir = "c"', "ryzen-ai-1.4, ryzen-ai-1.5, ryzen-ai-1.6, vitis-ai-6", "spells it 'cacheDir'"),
        ("zcu104", 'cache_key = "m"', "ryzen-ai-1.4, ryzen-ai-1.5, ryzen-ai-1.6, vitis-ai-6", "spells it 'cacheKey'"),
        (
            "vck190",
            'target = "X1"',
            "ryzen-ai-1.6, vitis-ai-6",
            "has no such option, only: cacheDir, cacheKey, config_file",
        ),
        ("vek280", 'cache_dir = "c"', "ryzen-ai-1.4, ryzen-ai-1.5, ryzen-ai-1.6, vitis-ai-6", "spells it 'cacheDir'"),
        ("ryzen-ai-phoenix", 'cacheDir = "c"', "vitis-ai-3.0, vitis-ai-3.5", "spells it 'cache_dir'"),
        ("ryzen-ai-strix", 'encryptionKey = "0"', "ryzen-ai-1.4", "spells it 'encryption_key'"),
    ],
)
def test_an_option_of_another_era_is_refused_with_the_right_key(name, line, eras, right):
    text = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    if "[execution.options]" in text:
        text = text.replace("[execution.options]", f"[execution.options]\n{line}")
    else:
        text = re.sub(r"options = \{", f"options = {{ {line},", text)
    key, stack = line.split(" ")[0], load_profile(name).execution.stack
    with pytest.raises(InvalidProfile) as caught:
        read_profile(text, f"{name}.toml")
    assert str(caught.value) == f"{name}.toml: execution: options: {key!r} is of {eras}; {stack} {right}"


def test_accelerator_profiles_are_all_checked_for_wrong_options():
    assert {name for name in NAMES if load_profile(name).execution.stack} == set(BOARDS)
