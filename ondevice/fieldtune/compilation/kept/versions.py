"""What compiles for an accelerator on this machine: versions of its driver and of its provider."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
from pathlib import Path

from fieldtune.hardware import installed_runtimes
from fieldtune.runtime import ProviderChoice
from fieldtune.version import __version__

_MODULES = ("zocl", "xocl", "amdxdna")
"""Kernel modules of the boards, of PCIe cards and of Ryzen AI."""
_STOCK = "onnxruntime"
_VENDOR = "voe"
"""The distribution of AMD's Vitis AI ONNX Runtime Engine, beside the one that fills the module onnxruntime."""


def driver_version(root: Path = Path("/")) -> str:
    """Return the versions of XRT and of the accelerator's kernel module; "" where there is none.

    Args:
        root: the folder below which /opt and /sys lie.
    """
    versions = {"xrt": _xrt_version(root)}
    for module in _MODULES:
        versions[module] = _line(root / "sys/module" / module / "version")
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def provider_version(choice: ProviderChoice) -> str:
    """Return the version of what compiles: of the vendor's wheels, or a plugin library's digest; "" if not known.

    An emulation's is fieldtune's own, for its rules and its plan are what emulates.
    """
    if choice.emulated:
        return f"fieldtune {__version__}"
    if choice.plugin_library:
        with Path(choice.plugin_library).open("rb") as file:
            return f"sha256 {_digest(file.read())}"
    versions = {name: version for name, version in installed_runtimes().items() if name != _STOCK}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        versions[_VENDOR] = importlib.metadata.version(_VENDOR)
    return ", ".join(f"{name} {versions[name]}" for name in sorted(versions))


def _xrt_version(root: Path) -> str:
    """Return the build version that XRT's own file states; XILINX_XRT names a folder other than the usual one."""
    named = os.environ.get("XILINX_XRT")
    folder = Path(named) if named else root / "opt/xilinx/xrt"
    try:
        data = json.loads((folder / "version.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(data.get("BUILD_VERSION", "")) if isinstance(data, dict) else ""


def _line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
