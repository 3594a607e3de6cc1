"""An adapter in memory: its card's text, its labels, and the modules and keys that are one."""

import dataclasses
import json

import pytest

from builders import adapter_card, lora_manifest, manifest
from fieldtune.adapters.adapter import PREFIX, adapted_modules, adapter_labels, same_parameter


def test_a_card_says_how_it_was_trained_only_where_it_was():
    assert json.loads(adapter_card().to_json()) == {
        "format_version": "1.0",
        "base_sha256": "a" * 64,
        "task": "text-classification",
        "labels": ["negative", "positive"],
    }
    assert json.loads(adapter_card(base_sha256=None, training={}).to_json())["training"] == {}
    assert adapter_card(labels=("größer",)).to_json().endswith('"größer"\n ]\n}\n')


def test_labels_are_the_adapters_own_or_else_the_bundles(adapter, manifest):
    card = dataclasses.replace(adapter.card, labels=("bad", "good"))
    assert adapter_labels(dataclasses.replace(adapter, card=card), manifest) == ("bad", "good")
    assert adapter_labels(dataclasses.replace(adapter, card=None), manifest) == ("negative", "positive")


def test_adapted_modules_are_those_of_the_methods_own_tensors():
    assert adapted_modules(lora_manifest()) == ("bert.query", "bert.words")
    assert adapted_modules(manifest()) == ()


@pytest.mark.parametrize(
    "key",
    [
        "classifier.bias",
        "classifier.modules_to_save.bias",
        "classifier.modules_to_save.default.bias",
    ],
)
def test_copies_of_one_parameter_share_a_key(key):
    assert same_parameter(f"{PREFIX}{key}") == f"{PREFIX}classifier.bias"
