"""What a command works with: the bundle, the profile and the provider that its flags name."""

import dataclasses
import functools
from pathlib import Path

from fieldtune.bundle import Bundle, open_bundle
from fieldtune.hardware import HardwareProfile, OnMissing, load_profile
from fieldtune.placement import choose_for
from fieldtune.runtime import ProviderChoice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """A bundle, its files checked, and the profile of the device that runs it.

    Attributes:
        bundle: the bundle.
        profile: of the device.
        on_missing: what to do where the profile's provider is not there; what the profile says if None.
    """

    bundle: Bundle
    profile: HardwareProfile
    on_missing: OnMissing | None

    @functools.cached_property
    def choice(self) -> ProviderChoice:
        """The provider, which is chosen when it is first asked for, and once for the whole command.

        Raises:
            FieldtuneError: as ``choose_for``.
        """
        return choose_for(self.bundle, self.profile, on_missing=self.on_missing)


def open_named(bundle: Path, profile: str, on_missing: OnMissing | None) -> Opened:
    """Open the bundle and the profile that a command's flags name.

    Raises:
        FieldtuneError: as ``load_profile`` and ``open_bundle``.
    """
    return Opened(profile=load_profile(profile), bundle=open_bundle(bundle), on_missing=on_missing)
