"""The version is one that packages can have, and what is installed."""

import importlib.metadata
import re

import fieldtune


def test_the_version_is_what_is_installed():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|(a|b|rc)\d+)?", fieldtune.__version__)
    assert importlib.metadata.version("fieldtune") == fieldtune.__version__
