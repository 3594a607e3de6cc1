"""Provider choice: which execution provider runs the graphs, with what options and session settings, and why."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from fieldtune.errors import ProviderUnavailable
from fieldtune.hardware import (
    CPU_PROVIDER,
    STACKS,
    ArenaExtend,
    GraphOptimization,
    HardwareProfile,
    OnMissing,
    usable_cores,
)

_INSTALL = {
    CPU_PROVIDER: "pip install 'fieldtune[ort]'",
    "CUDAExecutionProvider": "install onnxruntime-gpu instead of onnxruntime",
    "TensorrtExecutionProvider": "install onnxruntime-gpu instead of onnxruntime, and TensorRT",
    "DmlExecutionProvider": "install onnxruntime-directml instead of onnxruntime",
    "OpenVINOExecutionProvider": "install onnxruntime-openvino instead of onnxruntime",
    "QNNExecutionProvider": "install onnxruntime-qnn instead of onnxruntime",
    # Of the Vitis AI provider, the stack that the profile names tells more.
    "VitisAIExecutionProvider": "install AMD's Vitis AI or Ryzen AI package for this device; it replaces onnxruntime",
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SessionSettings:
    """How a session is opened.

    Attributes:
        intra_op_threads: threads of one operator; 0 lets ONNX Runtime take one for every core that it finds.
        prepacking: whether weights are kept a second time in the order that the kernels like.
        arena: whether freed memory is kept for the next run.
        arena_extend: how the arena grows.
        memory_pattern: whether the memory of a run is planned from the shapes of the one before it.
        graph_optimization: how far the graph is rewritten when it is loaded.
    """

    intra_op_threads: int = 0
    prepacking: bool = True
    arena: bool = True
    arena_extend: ArenaExtend = "power-of-two"
    memory_pattern: bool = True
    graph_optimization: GraphOptimization = "all"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ProviderChoice:
    """The execution provider that was chosen.

    Attributes:
        provider: that runs the graphs.
        requested: that was asked for, by the profile or by name.
        emulated: whether the CPU stands in for the accelerator of the one that was asked for.
        options: of the provider.
        plugin_library: the file that it is loaded from; "" where it is built in.
        session_settings: how sessions are opened.
        reason: why this one, in words.
        profile: name of the hardware profile.
        min_offload: the share, 0 to 1, of multiply-accumulates that the profile demands its own provider to run.
        max_partitions: the most pieces that the profile allows on its own provider; None is any number.
        on_missing: what the user wants where the provider is missing; None for what the profile says.
        behind_prefix: whether only the frozen prefix goes there, and all behind it runs on the CPU: beside an
            accelerator, unless another provider was asked for by name.
    """

    provider: str
    requested: str
    emulated: bool = False
    options: Mapping[str, str]
    plugin_library: str = ""
    session_settings: SessionSettings
    reason: str
    profile: str = ""
    min_offload: float = 0.0
    max_partitions: int | None = None
    on_missing: OnMissing | None = None
    behind_prefix: bool = False

    @property
    def on_cpu(self) -> bool:
        """Whether the CPU runs the graphs, be it in an accelerator's place."""
        return self.provider == CPU_PROVIDER

    @property
    def runs_as_is(self) -> bool:
        """Whether the CPU runs graphs as they are: nothing is compiled, and no accelerator emulated."""
        return self.on_cpu and not self.emulated

    @property
    def is_plain(self) -> bool:
        """Whether the CPU runs everything and was asked for, of which nothing need be said."""
        return (self.provider, self.requested) == (CPU_PROVIDER, CPU_PROVIDER)

    def to_json(self) -> dict[str, Any]:
        """Return it as json.dumps takes it, of the options the names alone: a value may be an encryption key."""
        return {**dataclasses.asdict(self), "options": sorted(self.options)}

    def __str__(self) -> str:
        """Return it on one line, for people."""
        return f"{self.provider}{', emulated' if self.emulated else ''}, {self.reason}"


def choose_provider(
    profile: HardwareProfile,
    available: Sequence[str],
    requested: str | None = None,
    on_missing: OnMissing | None = None,
) -> ProviderChoice:
    """Choose the execution provider: the requested one, else the profile's, else what ``on_missing`` says.

    A request is never replaced by another provider. The profile's options go to the profile's provider only.

    Args:
        profile: of the device.
        available: what the installed ONNX Runtime has: ``onnxruntime.get_available_providers()``.
        requested: ONNX Runtime's name of a provider to use whatever the profile says.
        on_missing: what to do where it is not available; the profile's if None.

    Raises:
        ProviderUnavailable: if it is not available, with what was found and what to install.
    """
    execution = profile.execution
    wanted = execution.provider if requested is None else requested
    settings = _session_settings(profile)
    beside = requested is None and profile.accelerator is not None
    if wanted in available:
        own = wanted == execution.provider
        return ProviderChoice(
            provider=wanted,
            requested=wanted,
            options=dict(execution.options) if own else {},
            plugin_library=execution.plugin_library if own else "",
            session_settings=settings,
            reason=f"as the profile {profile.name} says" if requested is None else "as requested",
            profile=profile.name,
            min_offload=execution.min_offload if own else 0.0,
            max_partitions=execution.max_partitions if own else None,
            on_missing=on_missing,
            behind_prefix=beside,
        )
    policy = on_missing or execution.on_missing
    emulates = policy == "emulate" and profile.accelerator is not None
    if requested is None and CPU_PROVIDER in available and (policy == "cpu" or emulates):
        said = "as was asked for" if on_missing else f"as the profile {profile.name} says"
        missing = f'{wanted} is not available, and on_missing is "{policy}", {said}'
        return ProviderChoice(
            provider=CPU_PROVIDER,
            requested=wanted,
            emulated=emulates,
            options={},
            session_settings=settings,
            reason=f"{missing}: the CPU emulates {profile.accelerator.target}"
            if profile.accelerator and emulates
            else missing,
            profile=profile.name,
            on_missing=on_missing,
            behind_prefix=beside,
        )
    raise ProviderUnavailable(_unavailable(profile, wanted, available, requested, policy))


def cpu_choice(profile: HardwareProfile) -> ProviderChoice:
    """Return the choice for what runs on the CPU whatever the profile's provider is: all behind the frozen prefix."""
    return ProviderChoice(
        provider=CPU_PROVIDER,
        requested=CPU_PROVIDER,
        options=dict(profile.execution.options) if profile.execution.provider == CPU_PROVIDER else {},
        session_settings=_session_settings(profile),
        reason="runs on the CPU beside any accelerator",
        profile=profile.name,
    )


def _session_settings(profile: HardwareProfile) -> SessionSettings:
    """Return how a profile wants sessions opened; its 0 threads become its CPU's cores, where it states them."""
    runtime = profile.runtime
    return SessionSettings(
        # Where the profile's processor has more cores than there are here, threads would wait for one another.
        intra_op_threads=runtime.threads or min(profile.cpu.cores or 0, usable_cores()),
        prepacking=runtime.prepacking,
        arena=runtime.arena,
        arena_extend=runtime.arena_extend,
        memory_pattern=runtime.memory_pattern,
        graph_optimization=runtime.graph_optimization,
    )


def _unavailable(
    profile: HardwareProfile, wanted: str, available: Sequence[str], requested: str | None, policy: OnMissing
) -> str:
    asked = f"is what the profile {profile.name} asks for" if requested is None else "was requested"
    installed = f"the installed ONNX Runtime has only: {', '.join(available) or 'none'}"
    message = f"{wanted} {asked}, but {installed}; {_install(profile, wanted)}"
    if requested is not None:
        return f"{message}, or request {CPU_PROVIDER}" if CPU_PROVIDER in available else message
    if profile.accelerator is None:
        if policy == "emulate":
            return f"{message}; the profile has no [accelerator] that could be emulated: --on-missing cpu uses the CPU"
        return f"{message}, or use the CPU with --on-missing cpu"
    if CPU_PROVIDER not in available:
        return message
    return (
        f"{message}, or use --on-missing emulate to have the CPU emulate {profile.accelerator.target}; nothing was run"
    )


def _install(profile: HardwareProfile, wanted: str) -> str:
    if wanted == profile.execution.provider and profile.execution.stack:
        return STACKS[profile.execution.stack].install
    return _INSTALL.get(wanted, "install a build of ONNX Runtime that has it")
