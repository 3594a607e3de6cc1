"""Finding ONNX Runtime: the one module that the stock, the training and the vendors' distributions all fill."""

import dataclasses
import functools
import importlib
import importlib.metadata
import importlib.util
import sys
from typing import Any

from fieldtune.errors import ProviderUnavailable

_INSTALL = "pip install 'fieldtune[ort]', or the build of ONNX Runtime that your board's vendor offers"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeFeatures:
    """What the installed ONNX Runtime can do, found by looking, not by its version.

    Attributes:
        version: as it names itself.
        has_lora_adapter: whether it takes adapters by LoraAdapter and RunOptions.add_active_adapter.
        has_training_api: whether it is a training build.
        providers: execution providers that it has, the preferred ones first.
    """

    version: str
    has_lora_adapter: bool
    has_training_api: bool
    providers: tuple[str, ...]


def check_installed() -> dict[str, str]:
    """Check that ONNX Runtime is installed exactly once, without importing it; return its distribution, if known.

    Raises:
        ProviderUnavailable: if it is missing or installed twice, or too old for NumPy; the message says what to do.
    """
    distributions = installed_runtimes()
    if len(distributions) > 1:
        names = sorted(distributions)
        named = ", ".join(f"{name} {distributions[name]}" for name in names)
        raise ProviderUnavailable(
            f"ONNX Runtime is installed {len(names)} times ({named}), and all of them fill the module onnxruntime, so "
            f"that it is a mix of them; run: pip uninstall {' '.join(names)}, then install the one you want"
        )
    # Where the distribution is known, its fault is found before its import prints pages or leaves half a module.
    for version in distributions.values():
        _check_numpy(version)
    if not distributions and importlib.util.find_spec("onnxruntime") is None:
        raise ProviderUnavailable(f"ONNX Runtime is not installed; {_INSTALL}")
    return distributions


def load_runtime() -> Any:
    """Import ONNX Runtime and return the module.

    Raises:
        ProviderUnavailable: if it is missing, installed twice, or broken; the message says what to do.
    """
    check_installed()
    try:
        module = importlib.import_module("onnxruntime")
    except (ImportError, AttributeError, OSError, RuntimeError, SystemError) as error:
        raise ProviderUnavailable(_broken(error)) from error
    if not hasattr(module, "InferenceSession"):
        # Uninstalling one of two distributions deletes files of the other and leaves a folder without a package in it.
        raise ProviderUnavailable(_broken("it has no InferenceSession; files are left from another installation"))
    _check_numpy(module.__version__)
    return module


def features() -> RuntimeFeatures:
    """Look at what the installed ONNX Runtime can do.

    Raises:
        ProviderUnavailable: as load_runtime.
    """
    module = load_runtime()
    binding = importlib.import_module("onnxruntime.capi._pybind_state")
    return RuntimeFeatures(
        version=module.__version__,
        has_lora_adapter=hasattr(module, "LoraAdapter") and hasattr(module.RunOptions, "add_active_adapter"),
        # onnxruntime.training itself imports torch, which a device does not have; its classes live in the binding.
        has_training_api=hasattr(binding, "CheckpointState") and hasattr(binding, "Module"),
        providers=tuple(module.get_available_providers()),
    )


def installed_runtimes() -> dict[str, str]:
    """Return the installed distributions that fill the module onnxruntime: name → version."""
    return dict(_runtimes_on(tuple(sys.path)))


@functools.cache
def _runtimes_on(_path: tuple[str, ...]) -> dict[str, str]:
    """Look once for each search path: every session asks, and reading all metadata takes longer than a small run."""
    names = importlib.metadata.packages_distributions().get("onnxruntime", [])
    return {name: importlib.metadata.version(name) for name in names}


def release(version: str) -> tuple[int, ...]:
    """Return major and minor of a version of ONNX Runtime: patch releases load the same graphs."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())


def numpy_fault(runtime_version: str, numpy_version: str) -> str | None:
    """Return what is wrong with a pair of ONNX Runtime and NumPy versions, or None.

    ONNX Runtime before 1.19 is compiled for NumPy 1. With NumPy 2 its import succeeds after printing a page, and the
    first run ends the process, so only the versions can tell in time.
    """
    runtime, numpy = release(runtime_version), release(numpy_version)
    if runtime and runtime < (1, 19) and numpy >= (2,):
        return (
            f"ONNX Runtime {runtime_version} is compiled for NumPy 1, and NumPy {numpy_version} is installed, with "
            "which it crashes; run: pip install 'numpy<2'"
        )
    return None


def _check_numpy(runtime_version: str) -> None:
    fault = numpy_fault(runtime_version, importlib.import_module("numpy").__version__)
    if fault:
        raise ProviderUnavailable(fault)


def _broken(cause: object) -> str:
    return (
        f"ONNX Runtime is installed, but cannot be used: {cause}; run: pip uninstall onnxruntime, and whatever else "
        f"'pip list' shows of it, then: {_INSTALL}"
    )
