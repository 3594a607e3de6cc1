"""Tiny models with random weights, as ``tests/tiny_bundles.py`` makes them."""

import pytest


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    """The folder that holds the models ``classifier`` (BERT, no head) and ``lm`` (Llama, tied embeddings)."""
    import tiny_bundles

    folder = tmp_path_factory.mktemp("models")
    tiny_bundles.classifier(folder / "classifier")
    tiny_bundles.decoder(folder / "lm")
    return folder
