"""The software stacks of the Vitis AI execution provider: what options each takes, and how it spells them.

AMD's releases renamed the provider's options more than once, and the provider ignores what it does not know: a cache
directory in the spelling of another release means that every start compiles again, without a word. So options are
checked here, against the release that a profile names.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import TypeAlias

from fieldtune.hardware.specs import Accelerator, Family, StackName

VITIS_AI_PROVIDER = "VitisAIExecutionProvider"
_SAME_OPTION = (("cacheDir", "cache_dir"), ("cacheKey", "cache_key"), ("encryptionKey", "encryption_key"))
_IN_MEMORY = "enable_cache_file_io_in_mem"

CACHE_VARIABLES = ("XLNX_ENABLE_CACHE", "XLNX_CACHE_DIR")
"""Environment variables that overrule the options on compiled models (UG1354 3.5, Runtime Options)."""

Faults: TypeAlias = list[str]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """One era of the provider's options.

    Attributes:
        name: the release that began it.
        families: kinds of accelerators that it drives.
        required: options that must be there, and what each is for.
        optional: the other options.
        values: options whose values are listed by the vendor.
        disk_cache: the value of enable_cache_file_io_in_mem with which a compiled int8 model is written to the cache
            directory; None where that option does not exist.
        install: how its provider comes onto the device, as an imperative sentence.
        documentation: where the vendor says so.
    """

    name: StackName
    families: tuple[Family, ...]
    required: Mapping[str, str]
    optional: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    disk_cache: str | None = None
    install: str
    documentation: str

    @property
    def options(self) -> tuple[str, ...]:
        """Every option, sorted."""
        return tuple(sorted((*self.required, *self.optional)))

    def cache_options(self, folder: str, name: str) -> dict[str, str]:
        """Return the options with which compiled models are kept in, and taken from, ``folder/name``."""
        values = {"cacheDir": folder, "cache_dir": folder, "cacheKey": name, "cache_key": name}
        options = {option: value for option, value in values.items() if option in self.options}
        return options if self.disk_cache is None else {**options, _IN_MEMORY: self.disk_cache}


_DPU_CONFIG = {"config_file": "the path of vaip_config.json, which comes with Vitis AI's package for the board"}
_OVERLAY = {"xclbin": "the path of the NPU's configuration, which comes with the Ryzen AI software"}
_FLAG = ("0", "1")
_RYZEN_VALUES = {
    _IN_MEMORY: _FLAG,
    "opt_level": ("0", "1", "2", "3", "65536"),
    "log_level": ("info", "warning", "error", "fatal"),
}
_RYZEN_OPTIONS = (
    "ai_analyzer_profiling",
    "ai_analyzer_visualization",
    "cache_dir",
    "cache_key",
    "config_file",
    _IN_MEMORY,
    "encryption_key",
    "log_level",
    "opt_level",
)

_ALL = (
    Stack(
        name="vitis-ai-3.0",
        families=("dpu",),
        required=_DPU_CONFIG,
        optional=("cacheDir", "cacheKey"),
        install="install AMD's Vitis AI 3.0 for this board, whose ONNX Runtime with VOE replaces onnxruntime",
        documentation="ONNX Runtime's page on the provider until May 2025 (changed by microsoft/onnxruntime#24739)",
    ),
    Stack(
        name="vitis-ai-3.5",
        families=("dpu",),
        required=_DPU_CONFIG,
        optional=("cacheDir", "cacheKey"),
        install="install AMD's Vitis AI 3.5 for this board: vitis_ai_2023.1-r3.5.0.tar.gz "
        "and the wheels voe and onnxruntime_vitisai 1.16.0, which replace onnxruntime",
        documentation="Vitis AI Library User Guide (UG1354) 3.5, Runtime Options",
    ),
    Stack(
        name="ryzen-ai-1.4",
        families=("npu",),
        required=_OVERLAY,
        optional=("cache_dir", "cache_key", "config_file", "encryptionKey"),
        install="install AMD's Ryzen AI Software 1.4, whose wheel onnxruntime_vitisai replaces onnxruntime",
        documentation="https://ryzenai.docs.amd.com/en/1.4/modelrun.html",
    ),
    Stack(
        name="ryzen-ai-1.5",
        families=("npu",),
        required=_OVERLAY,
        optional=_RYZEN_OPTIONS,
        values=_RYZEN_VALUES,
        disk_cache="0",
        install="install AMD's Ryzen AI Software 1.5, whose wheel onnxruntime_vitisai replaces onnxruntime",
        documentation="https://ryzenai.docs.amd.com/en/1.5/modelrun.html",
    ),
    Stack(
        name="ryzen-ai-1.6",
        families=("npu",),
        required={},
        optional=(*_RYZEN_OPTIONS, "target", "xclbin"),
        values={**_RYZEN_VALUES, "target": ("X1", "X2")},
        disk_cache="0",
        install="install AMD's Ryzen AI Software 1.6 or 1.7, whose wheel onnxruntime_vitisai replaces onnxruntime",
        documentation="https://ryzenai.docs.amd.com/en/1.6/modelrun.html",
    ),
    Stack(
        name="vitis-ai-6",
        families=("npu",),
        required={
            "config_file": "the path of a JSON file that names the device to compile for",
            "target": "VAIML, the compiler of this stack",
        },
        optional=("cache_dir", "cache_key"),
        values={"target": ("VAIML",)},
        install="install AMD's Vitis AI 6 for this board, whose ONNX Runtime replaces onnxruntime",
        documentation="https://vitisai.docs.amd.com/projects/gen2/en/latest/docs/model_compilation/ep-config-file.html",
    ),
)

STACKS: Mapping[str, Stack] = {stack.name: stack for stack in _ALL}
"""By name, the oldest of each line first."""


def option_faults(options: Mapping[str, str], stack: Stack, accelerator: Accelerator) -> Faults:
    """Check the options of the Vitis AI provider against a stack; return what is wrong, each with what is right."""
    faults = [_foreign(key, stack) for key in options if key not in stack.options]
    faults += [f"{key!r} is missing; {stack.name} needs it: {what}" for key, what in _missing(options, stack)]
    for key, allowed in stack.values.items():
        if key in options and options[key] not in allowed:
            faults.append(f"{key!r} is {options[key]!r}; {stack.name} takes {', '.join(allowed)}")
    return faults + _cache_faults(options, stack) + _chip_faults(options, stack, accelerator)


def _missing(options: Mapping[str, str], stack: Stack) -> list[tuple[str, str]]:
    return [(key, what) for key, what in stack.required.items() if not options.get(key)]


def _foreign(key: str, stack: Stack) -> str:
    """Say which stack an option belongs to, and what takes its place in this one."""
    others = ", ".join(name for name, other in STACKS.items() if key in other.options)
    twin = next((name for names in _SAME_OPTION if key in names for name in names if name in stack.options), None)
    if twin:
        return f"{key!r} is of {others}; {stack.name} spells it {twin!r}"
    if others:
        return f"{key!r} is of {others}; {stack.name} has no such option, only: {', '.join(stack.options)}"
    near = difflib.get_close_matches(key.lower(), stack.options, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown option {key!r}; {guess}{stack.name} has: {', '.join(stack.options)}"


def _cache_faults(options: Mapping[str, str], stack: Stack) -> Faults:
    """A cache directory that is never written to would only look as if compiled models were kept."""
    named = [key for key in ("cache_dir", "cache_key") if key in options]
    if stack.disk_cache is None or not named or options.get(_IN_MEMORY) == stack.disk_cache:
        return []
    needed = f"{_IN_MEMORY} = {stack.disk_cache!r}"
    return [f"{named[0]!r} needs {needed}: else {stack.name} keeps compiled int8 models in memory only"]


def _chip_faults(options: Mapping[str, str], stack: Stack, accelerator: Accelerator) -> Faults:
    """From Ryzen AI 1.6 on, the two generations of NPU want opposite options."""
    if stack.name != "ryzen-ai-1.6":
        return []
    faults = []
    if accelerator.target.startswith("AMD_AIE2_"):
        chip = f"{accelerator.target} (Phoenix, Hawk Point)"
        if options.get("target") != "X1":
            setting = repr(options["target"]) if "target" in options else "not set, which means 'X2'"
            faults.append(f"'target' is {setting}; {chip} needs 'X1'")
        if not options.get("xclbin"):
            faults.append(f"'xclbin' is missing; {chip} needs {_OVERLAY['xclbin']}: phoenix/4x4.xclbin")
    elif accelerator.target.startswith("AMD_AIE2P_") and "xclbin" in options:
        faults.append(f"'xclbin' must not be set for {accelerator.target} (Strix, Krackan); remove it")
    return faults
