"""Versions of what made a bundle."""

import importlib.metadata

from fieldtune.version import __version__


def tool_version(name: str) -> str:
    """Return the version of a package, for ``Manifest.tools``."""
    return __version__ if name == "fieldtune" else importlib.metadata.version(name)
