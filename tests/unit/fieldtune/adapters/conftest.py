"""A small bundle's manifest and an adapter that fits it, made without PEFT."""

import pytest

from builders import changed_adapter, lora_adapter, lora_manifest


@pytest.fixture
def manifest():
    return lora_manifest()


@pytest.fixture
def adapter():
    return lora_adapter()


@pytest.fixture
def changed():
    """The function that returns an adapter with other settings or tensors (None: without it)."""
    return changed_adapter
