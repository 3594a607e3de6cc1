"""What a command works with: the bundle, the profile and the provider that its flags name."""

import dataclasses
from pathlib import Path

from fieldtune.bundle import Bundle, open_bundle
from fieldtune.hardware import CPU_PROVIDER, HardwareProfile, OnMissing, load_profile
from fieldtune.placement import choose_for
from fieldtune.runtime import ProviderChoice


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A bundle, opened, and what runs it.

    Attributes:
        bundle: its files checked.
        profile: of the device.
        choice: the provider, chosen once for the whole command.
    """

    bundle: Bundle
    profile: HardwareProfile
    choice: ProviderChoice

    @property
    def is_plain(self) -> bool:
        """Whether the CPU runs everything, and was asked for: then nothing need be said about it."""
        return (self.choice.provider, self.choice.requested) == (CPU_PROVIDER, CPU_PROVIDER)


def open_device(bundle: Path, profile: str, on_missing: OnMissing | None) -> Device:
    """Open what a command's flags name; a provider that is missing is told before any work.

    Raises:
        FieldtuneError: as ``load_profile``, ``open_bundle`` and ``choose_for``.
    """
    described, opened = load_profile(profile), open_bundle(bundle)
    choice = choose_for(opened, described, on_missing=on_missing)
    return Device(bundle=opened, profile=described, choice=choice)
