"""Provider choice: which execution provider runs the graphs, with what options and session settings, and why."""

import dataclasses
from collections.abc import Mapping, Sequence

from fieldtune.errors import ProviderUnavailable
from fieldtune.hardware import GraphOptimization, HardwareProfile

CPU_PROVIDER = "CPUExecutionProvider"

_INSTALL = {
    "CPUExecutionProvider": "pip install 'fieldtune[ort]'",
    "CUDAExecutionProvider": "install onnxruntime-gpu instead of onnxruntime",
    "TensorrtExecutionProvider": "install onnxruntime-gpu instead of onnxruntime, and TensorRT",
    "DmlExecutionProvider": "install onnxruntime-directml instead of onnxruntime",
    "OpenVINOExecutionProvider": "install onnxruntime-openvino instead of onnxruntime",
    "QNNExecutionProvider": "install onnxruntime-qnn instead of onnxruntime",
    "VitisAIExecutionProvider": "install AMD's Vitis AI or Ryzen AI package for this device; it replaces onnxruntime",
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SessionSettings:
    """How a session is opened.

    Attributes:
        intra_op_threads: threads of one operator; 0 lets ONNX Runtime take one for every core that it finds.
        prepacking: whether weights are kept a second time in the order that the kernels like.
        arena: whether freed memory is kept for the next run.
        memory_pattern: whether the memory of a run is planned from the shapes of the one before it.
        graph_optimization: how far the graph is rewritten when it is loaded.
    """

    intra_op_threads: int = 0
    prepacking: bool = True
    arena: bool = True
    memory_pattern: bool = True
    graph_optimization: GraphOptimization = "all"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ProviderChoice:
    """The execution provider that was chosen, its options, how sessions are opened, and the reason in words."""

    provider: str
    options: Mapping[str, str]
    session_settings: SessionSettings
    reason: str


def choose_provider(profile: HardwareProfile, available: Sequence[str], requested: str | None = None) -> ProviderChoice:
    """Choose the execution provider: the requested one, else the profile's, else what its ``on_missing`` says.

    A request is never replaced by another provider. The profile's options go to the profile's provider only.

    Args:
        profile: of the device.
        available: what the installed ONNX Runtime has: ``onnxruntime.get_available_providers()``.
        requested: ONNX Runtime's name of a provider to use whatever the profile says.

    Raises:
        ProviderUnavailable: if it is not available, with what was found and what to install.
    """
    execution = profile.execution
    wanted = execution.provider if requested is None else requested
    if wanted in available:
        options = dict(execution.options) if wanted == execution.provider else {}
        reason = f"as the profile {profile.name} says" if requested is None else "as requested"
        return ProviderChoice(
            provider=wanted, options=options, session_settings=session_settings(profile), reason=reason
        )
    if requested is None and execution.on_missing == "cpu" and CPU_PROVIDER in available:
        return ProviderChoice(
            provider=CPU_PROVIDER,
            options={},
            session_settings=session_settings(profile),
            reason=f'{wanted} is not available, and the profile {profile.name} says on_missing = "cpu"',
        )
    raise ProviderUnavailable(_unavailable(profile, wanted, available, requested))


def session_settings(profile: HardwareProfile) -> SessionSettings:
    """Return how a profile wants sessions opened; its 0 threads become its CPU's cores, where it states them."""
    runtime = profile.runtime
    return SessionSettings(
        intra_op_threads=runtime.threads or profile.cpu.cores or 0,
        prepacking=runtime.prepacking,
        arena=runtime.arena,
        memory_pattern=runtime.memory_pattern,
        graph_optimization=runtime.graph_optimization,
    )


def _unavailable(profile: HardwareProfile, wanted: str, available: Sequence[str], requested: str | None) -> str:
    asked = f"is what the profile {profile.name} asks for" if requested is None else "was requested"
    message = f"{wanted} {asked}, but the installed ONNX Runtime has only: {', '.join(available) or 'none'}"
    install = _INSTALL.get(wanted, "install a build of ONNX Runtime that has it")
    if requested is None and profile.execution.on_missing == "emulate":
        return (
            f'{message}; on_missing = "emulate" needs an emulation profile, which this release cannot read yet: '
            f"{install}, or request {CPU_PROVIDER}"
        )
    return f"{message}; {install}" + (f", or request {CPU_PROVIDER}" if CPU_PROVIDER in available else "")
