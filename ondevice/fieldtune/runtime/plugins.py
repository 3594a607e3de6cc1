"""Execution providers that ONNX Runtime loads from a library of their own, which a profile names."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fieldtune.errors import ProviderUnavailable
from fieldtune.hardware import HardwareProfile, OnMissing, features, load_runtime, processor_name
from fieldtune.runtime.providers import ProviderChoice, choose_provider

if TYPE_CHECKING:
    from onnxruntime import OrtEpDevice

# Of the devices that one provider offers: what a profile with an accelerator is about, and the CPU last.
_PREFERRED = ("NPU", "GPU", "CPU")


def choose_here(
    profile: HardwareProfile, requested: str | None = None, on_missing: OnMissing | None = None
) -> ProviderChoice:
    """Choose the execution provider from what is installed here, the profile's plugin library among it.

    Args:
        profile: of the device.
        requested: ONNX Runtime's name of a provider to use whatever the profile says.
        on_missing: what to do where it is not available; the profile's if None.

    Raises:
        ProviderUnavailable: as ``choose_provider`` and ``load_plugin``, or the library was loaded and has no such
            provider for this machine.
    """
    execution, names = profile.execution, features().providers
    if not execution.plugin_library or requested not in (None, execution.provider):
        return choose_provider(profile, names, requested, on_missing)
    policy = on_missing or execution.on_missing
    try:
        offered = load_plugin(execution.plugin_library)
        if execution.provider not in (*offered, *names):
            instead = _instead(profile) if requested is None and policy == "error" else ""
            raise ProviderUnavailable(_not_offered(execution.plugin_library, execution.provider, offered) + instead)
    except ProviderUnavailable as error:
        if requested is not None or policy == "error":
            raise ProviderUnavailable(f"{execution.provider} of the profile {profile.name}: {error}") from error
        choice = choose_provider(profile, names, None, on_missing)
        return dataclasses.replace(choice, reason=f"{choice.reason}; {error}")
    return choose_provider(profile, tuple(dict.fromkeys((*offered, *names))), requested, on_missing)


def load_plugin(library: str) -> tuple[str, ...]:
    """Load a library of execution providers into ONNX Runtime, once in this process; return their names.

    Raises:
        ProviderUnavailable: no such file, an ONNX Runtime that takes no plugins, or a library that it cannot load.
    """
    return tuple(dict.fromkeys(device.ep_name for device in _loaded(library)))


def plugin_device(library: str, provider: str) -> "OrtEpDevice":
    """Return the device that a plugin's provider is to run on: its NPU, else its GPU, else its CPU.

    Raises:
        ProviderUnavailable: as ``load_plugin``, or the library has no such provider for this machine.
    """
    devices = [device for device in _loaded(library) if device.ep_name == provider]
    if not devices:
        raise ProviderUnavailable(_not_offered(library, provider, load_plugin(library)))
    return min(devices, key=lambda device: _PREFERRED.index(device.device.type.name))


def _not_offered(library: str, provider: str, offered: Sequence[str]) -> str:
    """Say that a library is in use and has nothing for this machine: installing it again would change nothing."""
    version = features().version
    if offered:
        return (
            f"the plugin library {library} was loaded by ONNX Runtime {version} and has no {provider}, but "
            f"{', '.join(offered)}; correct execution.provider or execution.plugin_library"
        )
    return (
        f"the plugin library {library} was loaded by ONNX Runtime {version} and offers no provider for this processor, "
        f"{processor_name()}, or another device of this machine; use it on one that its vendor supports"
    )


def _instead(profile: HardwareProfile) -> str:
    if profile.accelerator is None:
        return ", or use the CPU with --on-missing cpu"
    return f", or use --on-missing emulate to have the CPU emulate {profile.accelerator.target}"


@functools.cache
def _loaded(library: str) -> "tuple[OrtEpDevice, ...]":
    """Register a library, which a process may do once, and return the devices that came with it."""
    runtime: Any = load_runtime()
    if not Path(library).is_file():
        raise ProviderUnavailable(f"the plugin library {library} is not there; correct execution.plugin_library")
    if not hasattr(runtime, "register_execution_provider_library"):
        raise ProviderUnavailable(
            f"the plugin library {library} needs an ONNX Runtime that loads providers from libraries (1.23 or later); "
            f"{runtime.__version__} is installed"
        )
    before = {device.ep_name for device in runtime.get_ep_devices()}
    try:
        runtime.register_execution_provider_library(library, library)
    except Exception as error:
        # Whatever class the binding raises: the library could not be used, and its words say why.
        said = " ".join(str(error).split())
        raise ProviderUnavailable(
            f"ONNX Runtime {runtime.__version__} cannot load the plugin library {library}: {said}"
        ) from error
    return tuple(device for device in runtime.get_ep_devices() if device.ep_name not in before)
