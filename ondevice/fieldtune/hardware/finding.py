"""Finding hardware profiles: by path, in the folders that the environment names, and among those that come along."""

import difflib
import os
from pathlib import Path

from fieldtune.errors import InvalidProfile
from fieldtune.hardware.reading import read_profile
from fieldtune.hardware.specs import HardwareProfile

FOLDERS_VARIABLE = "FIELDTUNE_PROFILES"
"""The environment variable that names further folders of profiles; the first folder that has a name wins."""


def load_profile(name_or_path: str | Path) -> HardwareProfile:
    """Read a profile by its name, or by its path if that ends in .toml.

    Raises:
        InvalidProfile: no such profile, or one that cannot be read; the message names file and key.
    """
    return _read(profile_path(name_or_path))


def load_profiles() -> tuple[HardwareProfile, ...]:
    """Read all profiles that can be found, those of the environment's folders first.

    Raises:
        InvalidProfile: if one cannot be read, or if the environment names a folder that is not one.
    """
    return tuple(_read(path) for path in _profile_paths().values())


def profile_names() -> tuple[str, ...]:
    """Return the names of all profiles that can be found, sorted.

    Raises:
        InvalidProfile: if the environment names a folder that is not one.
    """
    return tuple(sorted(_profile_paths()))


def profile_path(name_or_path: str | Path) -> Path:
    """Return the file of a profile, by its name, or the path itself if that ends in .toml.

    Raises:
        InvalidProfile: if no profile has that name; the message brings the nearest ones.
    """
    if str(name_or_path).endswith(".toml"):
        return Path(name_or_path)
    name, paths = str(name_or_path), _profile_paths()
    if name not in paths:
        # A low bar, so that "rpi4" finds raspberry-pi-5; whatever it misses is in the list.
        near = difflib.get_close_matches(name.lower(), paths, n=3, cutoff=0.3)
        guess = f" Did you mean {' or '.join(near)}?" if near else ""
        raise InvalidProfile(
            f"no hardware profile {name!r}.{guess} There are: {', '.join(sorted(paths)) or 'none'}. Give one of them, "
            f"the path of a .toml file, or set {FOLDERS_VARIABLE} to a folder of profiles"
        )
    return paths[name]


def _profile_paths() -> dict[str, Path]:
    named = [Path(folder) for folder in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if folder]
    for folder in named:
        if not folder.is_dir():
            raise InvalidProfile(f"{FOLDERS_VARIABLE} names {folder}, which is not a folder; correct or unset it")
    package = Path(__file__).parents[1]
    installed = package / "hw_profiles"
    # An editable install runs from the source tree, where the profiles lie beside the packages' folders.
    own = installed if installed.is_dir() else package.parents[1] / "hw_profiles"
    paths: dict[str, Path] = {}
    for folder in (*named, own):
        for path in sorted(folder.glob("*.toml")):
            paths.setdefault(path.stem, path)
    return paths


def _read(path: Path) -> HardwareProfile:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidProfile(f"{path}: cannot be read as a hardware profile: {error}") from error
    profile = read_profile(text, str(path))
    if profile.name != path.stem:
        raise InvalidProfile(
            f"{path}: 'name' is {profile.name!r}; expected {path.stem!r}, as the file is called: change one of them"
        )
    return profile
