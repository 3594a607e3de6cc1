"""Sessions of ONNX Runtime: opened as the provider choice says, checked after opening, their errors in our words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fieldtune.bundle import GraphSpec
from fieldtune.errors import FieldtuneError, InvalidBundle, ProviderUnavailable
from fieldtune.hardware import CPU_PROVIDER, GraphOptimization, load_runtime, release
from fieldtune.runtime.plugins import plugin_device
from fieldtune.runtime.providers import ProviderChoice, SessionSettings
from fieldtune.runtime.shared_arena import register_shared_arena

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, RunOptions, SessionOptions

_LEVELS: Mapping[GraphOptimization, str] = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "off": "ORT_DISABLE_ALL",
}
_NO_CONFIG: Mapping[str, str] = {}
_PROVIDER_ERRORS = ("EPFail", "EngineError", "DeviceReset")
_LOG_ERRORS = 3
# How ONNX Runtime says that memory ran out: with the arena, without it, and by the Python binding.
_MEMORY_SIGNS = ("Failed to allocate memory", "bad_alloc", "bad allocation")


def open_session(
    path: Path,
    choice: ProviderChoice,
    config: Mapping[str, str] = _NO_CONFIG,
    *,
    in_order: bool = False,
    profile_prefix: Path | None = None,
) -> "InferenceSession":
    """Open a graph with the provider that was chosen, and with no other beside the CPU's.

    Args:
        path: of the .onnx file.
        choice: the provider, its options, and how sessions are opened.
        config: further entries of ONNX Runtime's session configuration; those that a version does not know it ignores.
        in_order: whether nodes run in the order of the file, and not as early as they can.
        profile_prefix: how the file begins that ``end_profiling`` writes; nothing is recorded if None.

    Raises:
        InvalidBundle: if ONNX Runtime cannot load the graph.
        ProviderUnavailable: if there is no ONNX Runtime, or the session would run without the chosen provider.
    """
    runtime = load_runtime()
    options = session_options(choice.session_settings)
    if in_order:
        options.execution_order = runtime.ExecutionOrder.PRIORITY_BASED
    for name, value in config.items():
        options.add_session_config_entry(name, value)
    if profile_prefix is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile_prefix)
    device = plugin_device(choice.plugin_library, choice.provider) if choice.plugin_library else None
    # A provider that is not there only causes a warning in ONNX Runtime, and the CPU silently takes over.
    available = runtime.get_available_providers()
    if device is None and choice.provider not in available:
        raise ProviderUnavailable(f"{choice.provider}: not in this ONNX Runtime; it has {', '.join(available)}")
    errors: tuple[type[Exception], ...] = (*runtime_errors(), ValueError, RuntimeError, MemoryError)
    try:
        if device is not None:
            options.add_provider_for_devices([device], dict(choice.options))
        session = runtime.InferenceSession(
            str(path),
            options,
            providers=[(choice.provider, dict(choice.options))] if device is None else None,
            enable_fallback=0,  # known since 1.17; before, the check below finds the fallback
        )
    except errors as error:
        raise _open_error(error, path, choice, runtime.__version__) from error
    session.disable_fallback()
    used = session.get_providers()
    if choice.provider not in used:
        raise ProviderUnavailable(
            f"{path}: the session fell back from {choice.provider} to {', '.join(used)}; check the provider's options "
            f"({_options(choice)}) and its driver, or request {CPU_PROVIDER}"
        )
    return session


def check_runtime(graph: GraphSpec, path: Path) -> None:
    """Hold what a graph needs against the installed ONNX Runtime, before a session is opened.

    Args:
        graph: the manifest's entry of it.
        path: what messages call it.

    Raises:
        ProviderUnavailable: the installed one is older, or there is none.
    """
    installed = str(load_runtime().__version__)
    if release(installed) < release(graph.min_ort):
        raise ProviderUnavailable(
            f"{path}: needs ONNX Runtime {graph.min_ort} or later (opset {graph.opset}, IR version "
            f"{graph.ir_version}), and {installed} is installed; install a later one, or build the bundle for this one"
        )


def run_session(
    session: "InferenceSession",
    outputs: Sequence[str],
    feeds: Mapping[str, npt.ArrayLike],
    options: "RunOptions | None" = None,
) -> list[npt.NDArray[Any]]:
    """Run a session: return the outputs named, in that order.

    Args:
        session: an open one.
        outputs: names.
        feeds: input name → array of the dtype and shape that the graph declares; a scalar becomes a 0-d array.
        options: of this run alone.

    Raises:
        FieldtuneError: if ONNX Runtime fails, with the graph, the shapes fed, and advice where memory ran out.
    """
    # ONNX Runtime takes arrays only; indexing and sums of arrays give NumPy scalars.
    arrays = {name: np.asarray(value) for name, value in feeds.items()}
    errors: tuple[type[Exception], ...] = (*runtime_errors(), RuntimeError, MemoryError)
    try:
        values: list[npt.NDArray[Any]] = session.run(list(outputs), arrays, options)
    except errors as error:
        raise run_error(error, session.get_modelmeta().graph_name, arrays) from error
    return values


def run_error(error: Exception, graph: str, arrays: Mapping[str, npt.NDArray[Any]]) -> FieldtuneError:
    """Return what to raise where a graph that was fed with arrays fails: with their shapes, and advice."""
    shapes = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())
    where = f"the graph {graph!r}, fed with {shapes}"
    if _is_memory(error):
        return FieldtuneError(
            f"not enough memory to run {where}; use a smaller batch size (with more gradient accumulation when "
            f"training) or shorter texts, or a profile with memory_pattern and prepacking off: {error_line(error)}"
        )
    return FieldtuneError(f"ONNX Runtime cannot run {where}: {error_line(error)}")


def session_options(settings: SessionSettings) -> "SessionOptions":
    """Return ONNX Runtime's options for our settings.

    Runs of one session on one machine repeat bit for bit: operators run one after another, and the division of each
    among threads follows from the shapes and the number of threads alone. Another number of threads may sum in
    another order.
    """
    runtime = load_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = settings.intra_op_threads
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, _LEVELS[settings.graph_optimization])
    options.enable_cpu_mem_arena = settings.arena
    options.enable_mem_pattern = settings.memory_pattern
    if settings.arena and settings.arena_extend == "as-requested":
        register_shared_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    options.log_severity_level = _LOG_ERRORS
    options.add_session_config_entry("session.disable_prepacking", "0" if settings.prepacking else "1")
    # Threads wait for the next operator by turning in circles, and after a run for the next run, too. Prefix and suffix
    # run in turn, each with threads of its own: without this, those of one are in the way of the other's.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Denormals count, as in torch, with which the graphs were compared; small gradients come near them.
    options.add_session_config_entry("session.set_denormal_as_zero", "0")
    return options


def runtime_errors() -> tuple[type[Exception], ...]:
    """Return the exception classes of the installed ONNX Runtime; later versions have more of them."""
    from onnxruntime.capi import onnxruntime_pybind11_state as binding

    return tuple(kind for kind in vars(binding).values() if isinstance(kind, type) and issubclass(kind, Exception))


def _open_error(error: Exception, path: Path, choice: ProviderChoice, version: str) -> FieldtuneError:
    if _is_memory(error):
        return FieldtuneError(
            f"{path}: not enough memory to open it; close other programs, or use a profile with prepacking off: "
            f"{error_line(error)}"
        )
    foreign = isinstance(error, ValueError | RuntimeError) and not choice.on_cpu
    if foreign or type(error).__name__ in _PROVIDER_ERRORS:
        return ProviderUnavailable(
            f"{path}: {choice.provider} failed to take it, with options {_options(choice)}: {error_line(error)}"
        )
    return InvalidBundle(
        f"{path}: ONNX Runtime {version} cannot load it: {error_line(error)}; copy or build the bundle again"
    )


def _is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _MEMORY_SIGNS)


def _options(choice: ProviderChoice) -> str:
    # Names alone: a value may be an encryption key.
    return ", ".join(choice.options) or "none"


def error_line(error: Exception) -> str:
    """Return an error's text on one line."""
    return " ".join(str(error).split()) or type(error).__name__
