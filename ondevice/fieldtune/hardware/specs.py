"""What a hardware profile says, as plain values; None stands for what a profile does not state."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from fieldtune.bundle import ActivationType, Precision
from fieldtune.hardware.on_missing import OnMissing

CPU_PROVIDER = "CPUExecutionProvider"
"""ONNX Runtime's name of the provider that is always there."""
Backend: TypeAlias = Literal["auto", "portable", "ort-training"]
"""What can train; ``auto`` decides by what is installed and what the bundle holds."""
Support: TypeAlias = Literal["current", "legacy"]
Architecture: TypeAlias = Literal["x86_64", "aarch64", "any"]
GraphOptimization: TypeAlias = Literal["all", "extended", "basic", "off"]
ArenaExtend: TypeAlias = Literal["power-of-two", "as-requested"]
StackName: TypeAlias = Literal[
    "", "vitis-ai-3.0", "vitis-ai-3.5", "ryzen-ai-1.4", "ryzen-ai-1.5", "ryzen-ai-1.6", "vitis-ai-6"
]
"""A release from which the Vitis AI provider's options are spelled so, until the next one; "" is plain ONNX Runtime."""
Family: TypeAlias = Literal["dpu", "npu"]
"""``dpu``: soft IP in programmable logic, with published limits; ``npu``: fixed AI engines."""
Activation: TypeAlias = Literal["relu", "relu6", "leaky_relu", "hard_sigmoid", "hard_swish"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CpuSpec:
    """The processor.

    Attributes:
        architecture: of its instruction set.
        model: its name.
        cores: that the program may use.
        frequency_hz: highest sustained clock.
        gflops: what a matrix product in float32 reaches on all cores, measured, in 1e9 operations a second.
        features: instruction sets, named as in /proc/cpuinfo.
    """

    architecture: Architecture = "any"
    model: str = ""
    cores: int | None = None
    frequency_hz: int | None = None
    gflops: float | None = None
    features: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MemorySpec:
    """The main memory.

    Attributes:
        total_bytes: all of it.
        available_for_app_bytes: what system and other programs leave.
    """

    total_bytes: int | None = None
    available_for_app_bytes: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionSpec:
    """Where the graphs run.

    Attributes:
        provider: ONNX Runtime's name of the execution provider.
        options: of the provider, spelled as the stack spells them.
        on_missing: what to do where the installed ONNX Runtime lacks it: fail, emulate it, or use the CPU.
        stack: the software stack that fixes the spelling of the options.
        plugin_library: the file that holds the provider where ONNX Runtime loads it as a plugin; "" where it is
            built in.
        min_offload: the share, 0 to 1, of a model's multiply-accumulates that must run on the accelerator.
        max_partitions: the most pieces that a model may be cut into on the accelerator; None for any number.
        compile_timeout_s: how long compiling a model may take.
        simulate_latency: whether an emulated run takes no less time than the accelerator would at its peak rate, and an
            emulated compile no less than compile_s.
        compile_s: how long the accelerator's compiler is taken to need, for such a simulation alone.
    """

    provider: str = CPU_PROVIDER
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    on_missing: OnMissing = "error"
    stack: StackName = ""
    plugin_library: str = ""
    min_offload: float = 0.0
    max_partitions: int | None = None
    compile_timeout_s: int = 600
    simulate_latency: bool = False
    compile_s: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeSpec:
    """How ONNX Runtime is used.

    Attributes:
        ort_version: the oldest one that is known to run here.
        threads: of one operator; 0 is one for every core.
        prepacking: whether weights are kept a second time in the order that the kernels like: faster, and more memory.
        arena: whether freed memory is kept for the next step: faster, and more memory.
        arena_extend: how the arena grows: by regions of doubling size, or by what is asked for and no more; the latter
            arena is one for all sessions of the process.
        memory_pattern: whether the memory of a step is planned from the shapes of the one before it.
        graph_optimization: how far graphs are rewritten when they are loaded.
    """

    ort_version: str = "1.16.3"
    threads: int = 0
    prepacking: bool = True
    arena: bool = True
    arena_extend: ArenaExtend = "power-of-two"
    memory_pattern: bool = True
    graph_optimization: GraphOptimization = "all"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSpec:
    """Training defaults that fit the device.

    Attributes:
        batch_size: examples that go through the graph together.
        gradient_accumulation: batches of one optimizer step.
        max_length: in tokens; None for the model's own.
        backend: what computes gradients and applies them; auto decides by what is installed.
    """

    batch_size: int = 8
    gradient_accumulation: int = 1
    max_length: int | None = None
    backend: Backend = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DpuLimits:
    """What one convolution, addition or activation may be on a DPU, from the target's description by its vendor.

    With kh × kw the kernel, ic its input channels, and pos = −log2 of a tensor's scale:

    * kernel_min ≤ kh, kw ≤ kernel_max and kh · kw ≤ kernel_area_max; stride_min ≤ both strides ≤ stride_max;
    * input channels times dilation, and output channels ≤ channels_max;
    * kh · kw · ⌈ic / bank_width⌉ · ⌈output_channel_parallel / bank_num⌉ ≤ bank_depth;
    * each padding ≤ (kernel - 1) · dilation in its direction;
    * a convolution or Gemm shifts its sum right by pos(weight) + pos(input) − pos(output), which lies in
      shift_cut_min … shift_cut_max;
    * an addition shifts an operand by at most add_shift_read_max to meet the other one;
    * an activation behind a convolution is one of activations, a leaky ReLU with leaky_relu_alpha.

    Attributes:
        input_channel_parallel: input channels computed in one cycle (ICP).
        output_channel_parallel: output channels computed in one cycle (OCP).
        pixel_parallel: pixels computed in one cycle (PP).
        kernel_min: smallest height and width of a kernel.
        kernel_max: largest height and width of a kernel.
        kernel_area_max: largest height times width of a kernel; None where only kernel_max holds.
        stride_min: smallest stride.
        stride_max: largest stride.
        bank_num: banks of on-chip memory for weights.
        bank_width: channels in one row of a bank.
        bank_depth: rows of a bank.
        activations: what may be fused behind a convolution.
        channel_groups_max: groups of input_channel_parallel channels that one convolution may read or make.
        leaky_relu_alpha: the one slope of a leaky ReLU: 26 / 256.
        shift_cut_min: of the right shift of a convolution's sum.
        shift_cut_max: of the right shift of a convolution's sum.
        add_shift_read_max: of the shift of an addition's operand.
    """

    input_channel_parallel: int
    output_channel_parallel: int
    pixel_parallel: int
    kernel_min: int
    kernel_max: int
    stride_min: int
    stride_max: int
    bank_num: int
    bank_width: int
    bank_depth: int
    activations: tuple[Activation, ...]
    kernel_area_max: int | None = None
    channel_groups_max: int = 256
    leaky_relu_alpha: float = 26 / 256
    shift_cut_min: int = 0
    shift_cut_max: int = 16
    add_shift_read_max: int = 7

    @property
    def channels_max(self) -> int:
        """The most input channels, times dilation, and the most output channels of one convolution."""
        return self.channel_groups_max * self.input_channel_parallel


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Accelerator:
    """What compiles and runs the frozen part beside the CPU.

    Attributes:
        target: the compiler's name of it.
        family: what kind of accelerator it is.
        peak_tops: int8 operations per second at best, in 1e12.
        batch: samples in one run of a compiled graph.
        precision: what a model must be quantized to.
        activation_type: of quantized activations; weights are int8.
        zero_point: of every quantized tensor.
        opset_min: the oldest ONNX opset that its compiler takes.
        opset_max: the latest ONNX opset that its compiler takes.
        memory_bytes: of its own; None where it uses the main memory, or where that is not known.
        limits: on single operators; None where its vendor publishes none.
        extra: what only this kind of accelerator knows.
    """

    target: str
    family: Family
    peak_tops: float | None = None
    batch: int = 1
    precision: Precision = "xint8"
    activation_type: ActivationType = "int8"
    zero_point: int = 0
    opset_min: int | None = None
    opset_max: int | None = None
    memory_bytes: int | None = None
    limits: DpuLimits | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DetectSpec:
    """By what a machine is recognized as this device; either match will do.

    Attributes:
        device_tree: parts of the device tree's model, whatever their case.
        pci_ids: vendor:device of a PCI device, as lspci -nn shows them.
    """

    device_tree: tuple[str, ...] = ()
    pci_ids: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where figures of the profile come from."""

    what: str
    where: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HardwareProfile:
    """All of a profile; ``accelerator`` is None where the CPU does everything."""

    format_version: str
    name: str
    title: str
    support: Support
    description: str
    cpu: CpuSpec
    memory: MemorySpec
    execution: ExecutionSpec
    runtime: RuntimeSpec
    training: TrainingSpec
    accelerator: Accelerator | None
    detect: DetectSpec
    sources: tuple[Source, ...]
