import pytest

from fieldtune.hardware import Accelerator
from fieldtune.hardware.stacks import STACKS, option_faults

DPU = Accelerator(target="DPUCV2DX8G_ISA1_C20B14", family="dpu")
PHOENIX = Accelerator(target="AMD_AIE2_4x4_Overlay", family="npu")
STRIX = Accelerator(target="AMD_AIE2P_4x4_Overlay", family="npu")
CONFIG = {"config_file": "/etc/vaip_config.json"}
XCLBIN = {"xclbin": "phoenix/4x4.xclbin"}


def _faults(options, stack, accelerator=DPU):
    return option_faults(options, STACKS[stack], accelerator)


@pytest.mark.parametrize(
    ("stack", "options", "accelerator"),
    [
        ("vitis-ai-3.0", CONFIG, DPU),
        ("vitis-ai-3.5", {**CONFIG, "cacheDir": "/tmp/c", "cacheKey": "m"}, DPU),
        ("ryzen-ai-1.4", {**XCLBIN, "cache_dir": "c", "encryptionKey": "00"}, PHOENIX),
        ("ryzen-ai-1.5", {**XCLBIN, "cache_dir": "c", "enable_cache_file_io_in_mem": "0"}, STRIX),
        ("ryzen-ai-1.6", {**XCLBIN, "target": "X1", "opt_level": "65536", "log_level": "warning"}, PHOENIX),
        ("ryzen-ai-1.6", {}, STRIX),
        ("ryzen-ai-1.6", {"target": "X1"}, STRIX),
        ("vitis-ai-6", {**CONFIG, "target": "VAIML", "cache_dir": "c", "cache_key": "m"}, STRIX),
    ],
)
def test_options_in_the_spelling_of_their_stack_pass(stack, options, accelerator):
    assert _faults(options, stack, accelerator) == []


@pytest.mark.parametrize("stack", ["vitis-ai-3.0", "vitis-ai-3.5", "vitis-ai-6"])
@pytest.mark.parametrize("value", [{}, {"config_file": ""}])
def test_a_configuration_file_is_required(stack, value):
    faults = _faults({"target": "VAIML", **value} if stack == "vitis-ai-6" else value, stack)
    assert len(faults) == 1
    assert faults[0].startswith(f"'config_file' is missing; {stack} needs it: the path of ")


@pytest.mark.parametrize("stack", ["ryzen-ai-1.4", "ryzen-ai-1.5"])
@pytest.mark.parametrize("accelerator", [PHOENIX, STRIX])
def test_before_ryzen_ai_1_6_every_npu_needs_an_xclbin(stack, accelerator):
    (fault,) = _faults({}, stack, accelerator)
    assert fault.startswith(f"'xclbin' is missing; {stack} needs it: the path of the NPU's configuration")


def test_phoenix_needs_the_older_compiler_and_an_xclbin():
    target, xclbin = _faults({}, "ryzen-ai-1.6", PHOENIX)
    assert target == "'target' is not set, which means 'X2'; AMD_AIE2_4x4_Overlay (Phoenix, Hawk Point) needs 'X1'"
    assert xclbin.startswith("'xclbin' is missing; AMD_AIE2_4x4_Overlay (Phoenix, Hawk Point) needs ")
    assert _faults({**XCLBIN, "target": "X2"}, "ryzen-ai-1.6", PHOENIX) == [target.replace("not set, which means ", "")]


def test_strix_must_not_set_an_xclbin():
    assert _faults({"target": "X2", **XCLBIN}, "ryzen-ai-1.6", STRIX) == [
        "'xclbin' must not be set for AMD_AIE2P_4x4_Overlay (Strix, Krackan); remove it"
    ]


@pytest.mark.parametrize("stack", ["ryzen-ai-1.5", "ryzen-ai-1.6"])
@pytest.mark.parametrize("flag", [{}, {"enable_cache_file_io_in_mem": "1"}])
@pytest.mark.parametrize("key", ["cache_dir", "cache_key"])
def test_a_cache_on_disk_needs_the_cache_in_memory_off(stack, flag, key):
    options = {key: "c", **flag, **(XCLBIN if stack == "ryzen-ai-1.5" else {})}
    assert _faults(options, stack, STRIX) == [
        f"'{key}' needs enable_cache_file_io_in_mem = '0': else {stack} keeps compiled int8 models in memory only"
    ]


@pytest.mark.parametrize(
    ("stack", "key", "value", "allowed"),
    [
        ("ryzen-ai-1.6", "target", "VAIML", "X1, X2"),
        ("ryzen-ai-1.6", "opt_level", "4", "0, 1, 2, 3, 65536"),
        ("ryzen-ai-1.6", "enable_cache_file_io_in_mem", "false", "0, 1"),
        ("ryzen-ai-1.6", "log_level", "loud", "info, warning, error, fatal"),
        ("vitis-ai-6", "target", "X1", "VAIML"),
    ],
)
def test_a_value_that_the_vendor_does_not_list_is_refused(stack, key, value, allowed):
    options = {**CONFIG, key: value}
    assert _faults(options, stack, STRIX) == [f"'{key}' is '{value}'; {stack} takes {allowed}"]


def test_an_option_that_no_stack_knows_brings_the_nearest_and_the_list():
    assert _faults({**CONFIG, "cachedir": "c"}, "vitis-ai-3.5") == [
        "unknown option 'cachedir'; did you mean 'cacheDir'? vitis-ai-3.5 has: cacheDir, cacheKey, config_file"
    ]
    assert _faults({"zzz": "1"}, "ryzen-ai-1.4", PHOENIX)[0] == (
        "unknown option 'zzz'; ryzen-ai-1.4 has: cache_dir, cache_key, config_file, encryptionKey, xclbin"
    )


def test_every_fault_is_told_at_once():
    faults = _faults({"cacheDir": "c", "opt_level": "9"}, "ryzen-ai-1.6", PHOENIX)
    assert len(faults) == 4
    assert [fault.split("'")[1] for fault in faults] == ["cacheDir", "opt_level", "target", "xclbin"]


def test_each_stack_spells_each_option_once_and_says_where_that_is_from():
    for name, stack in STACKS.items():
        assert stack.name == name
        assert len(set(stack.options)) == len(stack.options)
        assert not {"cacheDir", "cache_dir"} <= set(stack.options)
        assert stack.documentation
        assert set(stack.values) <= set(stack.options)


@pytest.mark.parametrize(
    ("stack", "options"),
    [
        ("vitis-ai-3.0", {"cacheDir": "/entry", "cacheKey": "cache"}),
        ("vitis-ai-3.5", {"cacheDir": "/entry", "cacheKey": "cache"}),
        ("ryzen-ai-1.4", {"cache_dir": "/entry", "cache_key": "cache"}),
        ("ryzen-ai-1.5", {"cache_dir": "/entry", "cache_key": "cache", "enable_cache_file_io_in_mem": "0"}),
        ("ryzen-ai-1.6", {"cache_dir": "/entry", "cache_key": "cache", "enable_cache_file_io_in_mem": "0"}),
        ("vitis-ai-6", {"cache_dir": "/entry", "cache_key": "cache"}),
    ],
)
def test_compiled_models_are_kept_in_the_spelling_of_the_stack(stack, options):
    assert STACKS[stack].cache_options("/entry", "cache") == options


@pytest.mark.parametrize("stack", STACKS)
def test_every_stack_says_what_to_install(stack):
    assert STACKS[stack].install.startswith("install AMD's ")
