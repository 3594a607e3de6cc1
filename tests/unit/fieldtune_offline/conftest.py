"""Tiny models with random weights, as ``tests/tiny_bundles.py`` makes them."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    """The folder that holds the models ``classifier`` (BERT, no head) and ``lm`` (Llama, tied embeddings)."""
    path = Path(__file__).resolve().parents[2] / "tiny_bundles.py"
    spec = importlib.util.spec_from_file_location("tiny_bundles", path)
    tiny_bundles = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny_bundles)
    folder = tmp_path_factory.mktemp("models")
    tiny_bundles.classifier(folder / "classifier")
    tiny_bundles.decoder(folder / "lm")
    return folder
