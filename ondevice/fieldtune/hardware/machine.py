"""What can be seen of the machine that this runs on: board, PCI devices, processor, memory, versions for a report."""

import dataclasses
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fieldtune.hardware.installed import RuntimeFeatures, features
from fieldtune.version import __version__

_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
# The part numbers of Arm's own cores (implementer 0x41): arch/arm64/include/asm/cputype.h in Linux.
_ARM_CORES = {
    "0xd03": "Cortex-A53",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd05": "Cortex-A55",
    "0xd0b": "Cortex-A76",
    "0xd42": "Cortex-A78AE",
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MachineFacts:
    """What can be seen of a machine; empty or None where it cannot.

    Attributes:
        device_tree: the device tree's model, which names a board.
        pci_ids: vendor:device of every PCI device, each once.
        architecture: x86_64, aarch64, or what the kernel says.
        cpu_model: of the processor, or the name of its cores.
        cores: that the kernel has, hyperthreads counted.
        memory_bytes: of main memory, without what firmware and kernel keep.
        runtime_version: of the installed ONNX Runtime.
        providers: execution providers that it has.
    """

    device_tree: str = ""
    pci_ids: tuple[str, ...] = ()
    architecture: str = ""
    cpu_model: str = ""
    cores: int | None = None
    memory_bytes: int | None = None
    runtime_version: str = ""
    providers: tuple[str, ...] = ()


def machine_facts(
    root: Path = Path("/"), *, architecture: str | None = None, runtime: RuntimeFeatures | None = None
) -> MachineFacts:
    """Look at a machine.

    Args:
        root: the folder below which /proc and /sys lie.
        architecture: as ``platform.machine`` says; looked up if None.
        runtime: what the installed ONNX Runtime can do, or None if that is not known.
    """
    machine = (platform.machine() if architecture is None else architecture).lower()
    cpuinfo = _text(root / "proc/cpuinfo")
    memory = re.search(r"^MemTotal:\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    return MachineFacts(
        device_tree=_text(root / "proc/device-tree/model") or _text(root / "sys/firmware/devicetree/base/model"),
        pci_ids=_pci_ids(root / "sys/bus/pci/devices"),
        architecture=_ARCHITECTURES.get(machine, machine),
        cpu_model=_cpu_model(cpuinfo),
        cores=len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE)) or os.cpu_count(),
        memory_bytes=int(memory[1]) * 1024 if memory else None,
        runtime_version=runtime.version if runtime else "",
        providers=runtime.providers if runtime else (),
    )


def environment() -> dict[str, str]:
    """Return versions and machine, for a report.

    Raises:
        ProviderUnavailable: if there is no usable ONNX Runtime.
    """
    return {
        "fieldtune": __version__,
        "onnxruntime": features().version,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(os.cpu_count() or "unknown"),
    }


def instruction_sets(root: Path = Path("/")) -> tuple[str, ...]:
    """Return the names of the instructions that the processor has, as the kernel calls them, sorted.

    Args:
        root: the folder below which /proc lies; empty where the kernel says nothing there.
    """
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", _text(root / "proc/cpuinfo"), re.MULTILINE)
    return tuple(sorted(match[1].split())) if match else ()


def processor_name(root: Path = Path("/"), *, architecture: str | None = None) -> str:
    """Return model, maker and architecture of the processor, as far as the kernel names them.

    For example ``AMD EPYC (AuthenticAMD, x86_64)``; the architecture alone where the kernel says nothing.

    Args:
        root: the folder below which /proc lies.
        architecture: as ``platform.machine`` says; looked up if None.
    """
    cpuinfo = _text(root / "proc/cpuinfo")
    machine = (platform.machine() if architecture is None else architecture).lower()
    maker = re.search(r"^vendor_id\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
    known = ", ".join([*([maker[1]] if maker else []), _ARCHITECTURES.get(machine, machine)])
    model = _cpu_model(cpuinfo)
    return f"{model} ({known})" if model else known


def usable_cores() -> int:
    """Return how many of the machine's cores this process may use; 0 where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0


def _text(path: Path) -> str:
    """Return a file's text without the zero that ends a device tree's strings; "" where there is none."""
    try:
        return path.read_bytes().decode("utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _pci_ids(folder: Path) -> tuple[str, ...]:
    raw = (f"{_text(device / 'vendor')}:{_text(device / 'device')}" for device in sorted(folder.glob("*")))
    return tuple(dict.fromkeys(pci_id.replace("0x", "").lower() for pci_id in raw if len(pci_id) > 1))


def _cpu_model(cpuinfo: str) -> str:
    fields: Mapping[str, str] = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(cpuinfo.splitlines()))
    }
    if "CPU part" in fields:
        arm = fields.get("CPU implementer") == "0x41"
        return _ARM_CORES.get(fields["CPU part"], "") if arm else ""
    return fields.get("model name", "")
