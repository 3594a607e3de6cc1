"""Tiny models with random weights, as ``tests/tiny_bundles.py`` makes them, and bundles built from them."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny():
    """The module that makes tiny models and bundles, which needs the development environment."""
    pytest.importorskip("torch")
    import tiny_bundles

    return tiny_bundles


@pytest.fixture(scope="session")
def tiny_models(tiny, tmp_path_factory):
    """The folder that holds the models ``classifier`` (BERT, no head) and ``lm`` (Llama, tied embeddings)."""
    folder = tmp_path_factory.mktemp("models")
    tiny.classifier(folder / "classifier")
    tiny.decoder(folder / "lm")
    return folder


@pytest.fixture(scope="session")
def tiny_bundles(tiny, cache, filling):
    """The folder that holds ``tiny-classifier``, ``static-classifier``, ``tiny-lm`` and their ``models``."""
    folder = Path(os.environ.get("FIELDTUNE_TEST_BUNDLES") or cache / "bundles")
    with filling():
        tiny.build_all(folder)
    return folder
