"""Bundles of which there are a manifest and node tables alone: more is not needed to check them."""

import pytest

from builders import BOUNDARY, split_tables, table_bundle, whole_tables


@pytest.fixture
def bundle(tmp_path):
    """The function from tables of graphs to a bundle for images that holds them, written to disk."""
    return lambda *tables, **changes: table_bundle(tmp_path, *tables, **changes)


@pytest.fixture
def whole(bundle):
    """The function that makes a bundle of one product each in its three graphs."""
    return lambda **changes: bundle(*whole_tables(), **changes)


@pytest.fixture
def split(bundle):
    """The function that makes a split bundle with a quantized prefix for profiles."""
    return lambda *profiles, **prefix: bundle(
        *split_tables(*profiles, **prefix), boundary=(BOUNDARY,), targets=profiles
    )
