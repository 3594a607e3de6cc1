"""Versions of what made a bundle."""

import importlib.metadata

import pytest

import fieldtune
from fieldtune_offline.versions import tool_version


def test_a_version_is_that_of_the_installed_package():
    assert tool_version("numpy") == __import__("numpy").__version__
    assert tool_version("fieldtune") == fieldtune.__version__


def test_a_package_that_is_not_installed_has_none():
    with pytest.raises(importlib.metadata.PackageNotFoundError, match="no-such-package-at-all"):
        tool_version("no-such-package-at-all")
