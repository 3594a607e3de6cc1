"""Reading a hardware profile: TOML in, checked values out; every message names the file and the key.

Format 1.1; a file in format 1.0 is read as it was: its provider's options are taken unchecked, because it names no
software stack. A reader refuses another major version and warns on a later minor one.
"""

import dataclasses
import re
import sys
from typing import Any, get_args

from fieldtune.bundle import ActivationType, Precision
from fieldtune.errors import InvalidProfile, UnsupportedFormat, listed
from fieldtune.files import Fields, check_version, json_text
from fieldtune.hardware.fit import profile_faults
from fieldtune.hardware.on_missing import OnMissing
from fieldtune.hardware.specs import (
    Accelerator,
    Activation,
    Architecture,
    ArenaExtend,
    Backend,
    CpuSpec,
    DetectSpec,
    DpuLimits,
    ExecutionSpec,
    Family,
    GraphOptimization,
    HardwareProfile,
    MemorySpec,
    RuntimeSpec,
    Source,
    StackName,
    Support,
    TrainingSpec,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORMAT_VERSION = "1.1"
_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})*")
_PCI_ID = re.compile(r"[0-9a-f]{4}:[0-9a-f]{4}")


def read_profile(text: str, where: str) -> HardwareProfile:
    """Read the text of a profile.

    Raises:
        InvalidProfile: not TOML, another major version, a key that is missing, unknown or of another type, or parts
            that do not fit each other: options and software stack, accelerator and limits.
    """
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError is a ValueError; so is a number of 5,000 digits
        raise InvalidProfile(f"{where}: not TOML: {error}") from error
    top = Fields(data, where, InvalidProfile)
    version = top.text("format_version")
    try:
        later = check_version(version, FORMAT_VERSION, where)
    except UnsupportedFormat as error:
        raise InvalidProfile(str(error)) from error
    accelerator = top.optional_table("accelerator")
    profile = HardwareProfile(
        format_version=version,
        name=top.text("name"),
        title=top.text("title"),
        support=top.choice("support", get_args(Support), "current"),
        description=top.text("description", ""),
        cpu=_cpu(top.table("cpu", {})),
        memory=_memory(top.table("memory", {})),
        execution=_execution(top.table("execution", {})),
        runtime=_runtime(top.table("runtime", {})),
        training=_training(top.table("training", {})),
        accelerator=_accelerator(accelerator) if accelerator else None,
        detect=_detect(top.table("detect", {})),
        sources=tuple(Source(what=source.text("what"), where=source.text("where")) for source in top.tables("source")),
    )
    if not later:
        top.done()
    faults = profile_faults(profile)
    if faults:
        raise InvalidProfile(
            f"{where}: " + (faults[0] if len(faults) == 1 else f"{len(faults)} faults:{listed(faults)}")
        )
    return profile


def _cpu(table: Fields) -> CpuSpec:
    default = CpuSpec()
    return CpuSpec(
        architecture=table.choice("architecture", get_args(Architecture), default.architecture),
        model=table.text("model", default.model),
        cores=_optional(table, "cores"),
        frequency_hz=_optional(table, "frequency_hz"),
        gflops=_rate(table, "gflops"),
        features=table.texts("features", list(default.features)),
    )


def _memory(table: Fields) -> MemorySpec:
    return MemorySpec(
        total_bytes=_optional(table, "total_bytes"),
        available_for_app_bytes=_optional(table, "available_for_app_bytes"),
    )


def _execution(table: Fields) -> ExecutionSpec:
    default = ExecutionSpec()
    options = table.table("options", default.options)
    min_offload = table.number("min_offload", default.min_offload)
    if not 0 <= min_offload <= 1:
        raise InvalidProfile(f"{table.where}: 'min_offload' is {min_offload:g}; expected a share, 0 to 1")
    return ExecutionSpec(
        provider=table.text("provider", default.provider),
        # ONNX Runtime takes every provider option as a string; a number would be turned into one nobody has seen.
        options={key: options.text(key) for key in options},
        on_missing=table.choice("on_missing", get_args(OnMissing), default.on_missing),
        stack=_stack(table),
        plugin_library=table.text("plugin_library", default.plugin_library),
        min_offload=min_offload,
        max_partitions=_optional(table, "max_partitions"),
        compile_timeout_s=table.integer("compile_timeout_s", default.compile_timeout_s, least=1),
        simulate_latency=table.flag("simulate_latency", default.simulate_latency),
        compile_s=_rate(table, "compile_s") or default.compile_s,
    )


def _stack(table: Fields) -> StackName:
    name = table.text("stack", ExecutionSpec().stack)
    known: tuple[StackName, ...] = get_args(StackName)
    if name not in known:
        names = ", ".join(stack for stack in known if stack)
        raise InvalidProfile(f"{table.where}: 'stack' is {name!r}; expected one of {names}, or nothing")
    return next(stack for stack in known if stack == name)


def _runtime(table: Fields) -> RuntimeSpec:
    default = RuntimeSpec()
    version = table.text("ort_version", default.ort_version)
    if not _VERSION.fullmatch(version):
        raise InvalidProfile(f"{table.where}: 'ort_version' is {version!r}; expected numbers, as '1.16.3'")
    return RuntimeSpec(
        ort_version=version,
        threads=table.integer("threads", default.threads, least=0),
        prepacking=table.flag("prepacking", default.prepacking),
        arena=table.flag("arena", default.arena),
        arena_extend=table.choice("arena_extend", get_args(ArenaExtend), default.arena_extend),
        memory_pattern=table.flag("memory_pattern", default.memory_pattern),
        graph_optimization=table.choice("graph_optimization", get_args(GraphOptimization), default.graph_optimization),
    )


def _training(table: Fields) -> TrainingSpec:
    default = TrainingSpec()
    return TrainingSpec(
        batch_size=table.integer("batch_size", default.batch_size, least=1),
        gradient_accumulation=table.integer("gradient_accumulation", default.gradient_accumulation, least=1),
        max_length=_optional(table, "max_length"),
        backend=table.choice("backend", get_args(Backend), default.backend),
    )


def _accelerator(table: Fields) -> Accelerator:
    target = table.text("target")
    # AMD names its soft IP DPU…; whatever else can be named as a target is an array of AI engines.
    default = Accelerator(target=target, family="dpu" if target.startswith("DPU") else "npu")
    limits = table.optional_table("limits")
    return Accelerator(
        target=target,
        family=table.choice("family", get_args(Family), default.family),
        peak_tops=_rate(table, "peak_tops"),
        batch=table.integer("batch", default.batch, least=1),
        precision=table.choice("precision", get_args(Precision), default.precision),
        activation_type=table.choice("activation_type", get_args(ActivationType), default.activation_type),
        zero_point=table.integer("zero_point", default.zero_point),
        opset_min=_optional(table, "opset_min"),
        opset_max=_optional(table, "opset_max"),
        memory_bytes=_optional(table, "memory_bytes"),
        limits=_limits(limits) if limits else None,
        extra=_extra(table),
    )


def _extra(table: Fields) -> dict[str, Any]:
    """Return what only this kind of accelerator knows; it goes into digests and reports as JSON."""
    extra = table.plain("extra", {})
    try:
        json_text(extra)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidProfile(f"{table.where}: 'extra' has no form in JSON ({error}); write it as text") from error
    return extra


def _limits(table: Fields) -> DpuLimits:
    """Read the limits; what every DPU has in common may be left out."""
    known: tuple[Activation, ...] = get_args(Activation)
    activations = table.texts("activations")
    unknown = [activation for activation in activations if activation not in known]
    if unknown:
        raise InvalidProfile(f"{table.where}: 'activations' holds {unknown[0]!r}; expected some of {', '.join(known)}")
    stated = DpuLimits(
        input_channel_parallel=table.integer("input_channel_parallel", least=1),
        output_channel_parallel=table.integer("output_channel_parallel", least=1),
        pixel_parallel=table.integer("pixel_parallel", least=1),
        kernel_min=table.integer("kernel_min", least=1),
        kernel_max=table.integer("kernel_max", least=1),
        stride_min=table.integer("stride_min", least=1),
        stride_max=table.integer("stride_max", least=1),
        bank_num=table.integer("bank_num", least=1),
        bank_width=table.integer("bank_width", least=1),
        bank_depth=table.integer("bank_depth", least=1),
        activations=tuple(activation for activation in known if activation in activations),
    )
    return dataclasses.replace(
        stated,
        kernel_area_max=_optional(table, "kernel_area_max"),
        channel_groups_max=table.integer("channel_groups_max", stated.channel_groups_max, least=1),
        leaky_relu_alpha=table.number("leaky_relu_alpha", stated.leaky_relu_alpha),
        shift_cut_min=table.integer("shift_cut_min", stated.shift_cut_min),
        shift_cut_max=table.integer("shift_cut_max", stated.shift_cut_max),
        add_shift_read_max=table.integer("add_shift_read_max", stated.add_shift_read_max, least=0),
    )


def _detect(table: Fields) -> DetectSpec:
    default = DetectSpec()
    device_tree = table.texts("device_tree", list(default.device_tree))
    if not all(part.strip() for part in device_tree):
        raise InvalidProfile(f"{table.where}: 'device_tree' holds an empty text, which would match every device")
    pci_ids = table.texts("pci_ids", list(default.pci_ids))
    for pci_id in pci_ids:
        if not _PCI_ID.fullmatch(pci_id):
            raise InvalidProfile(
                f"{table.where}: 'pci_ids' holds {pci_id!r}; expected vendor:device in lower case, as '1022:17f0'"
            )
    return DetectSpec(device_tree=device_tree, pci_ids=pci_ids)


def _optional(table: Fields, key: str) -> int | None:
    """Return a positive integer, or None where the key is missing or 0."""
    return table.integer(key, 0, least=0) or None


def _rate(table: Fields, key: str) -> float | None:
    """Return a positive number, or None where the key is missing or 0."""
    rate = table.number(key, 0.0)
    if rate < 0:
        raise InvalidProfile(f"{table.where}: {key!r} is {rate:g}; expected a positive number")
    return rate or None
