"""Execution providers that ONNX Runtime loads from a library of their own, which a profile names."""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fieldtune.errors import ProviderUnavailable
from fieldtune.hardware import HardwareProfile
from fieldtune.hardware.installed import features, load_runtime
from fieldtune.hardware.on_missing import OnMissing
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
        ProviderUnavailable: as ``choose_provider`` and ``load_plugin``.
    """
    execution, names = profile.execution, features().providers
    if not execution.plugin_library or requested not in (None, execution.provider):
        return choose_provider(profile, names, requested, on_missing)
    try:
        offered = load_plugin(execution.plugin_library)
    except ProviderUnavailable as error:
        if requested is not None or (on_missing or execution.on_missing) == "error":
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
    found = [device for device in _loaded(library) if device.ep_name == provider]
    if not found:
        offered = ", ".join(load_plugin(library)) or "no provider for this machine"
        raise ProviderUnavailable(f"{library}: has no {provider}; it has {offered}")
    return min(found, key=lambda device: _PREFERRED.index(device.device.type.name))


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
