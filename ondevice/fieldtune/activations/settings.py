"""CacheSettings: where boundary activations are kept, and how many. Its docs are the command line's."""

import dataclasses
from typing import Literal, TypeAlias

CacheMode: TypeAlias = Literal["disk", "memory", "off"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CacheSettings:
    """Where boundary activations are kept, and how many.

    Raises:
        ValueError: a negative size.
    """

    activation_cache: CacheMode = "disk"
    """Where what a split bundle's prefix gives for an example is kept: on disk for later runs, in memory, or not."""

    cache_disk_mib: int = 4096
    """Most that all kept activations may take on disk, in MiB, and half of what is free; the rest is computed again.
    What takes more already is removed, but for that of other runs that go on."""

    cache_memory_mib: int = 256
    """Most that they may take in memory, in MiB."""

    def __post_init__(self) -> None:
        for name in ("cache_disk_mib", "cache_memory_mib"):
            value = getattr(self, name)
            if value < 0:
                raise ValueError(f"{name} is {value}; expected at least 0")

    @property
    def disk_bytes(self) -> int:
        """Most that may lie on disk."""
        return self.cache_disk_mib << 20 if self.activation_cache == "disk" else 0

    @property
    def memory_bytes(self) -> int:
        """Most that may be held in memory."""
        return 0 if self.activation_cache == "off" else self.cache_memory_mib << 20
