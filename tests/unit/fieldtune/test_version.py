"""The version is one that packages can have, and the package's own."""

import re

import fieldtune
from fieldtune.version import __version__


def test_the_version_is_the_packages():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|(a|b|rc)\d+)?", __version__)
    assert fieldtune.__version__ == __version__
