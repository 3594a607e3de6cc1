import dataclasses

import numpy as np
import pytest

from builders import QUERY, WORDS
from fieldtune.adapters.adapter import same_parameter
from fieldtune.adapters.fit import check_fits
from fieldtune.adapters.tensors import StoredTensor
from fieldtune.errors import AdapterMismatch, InvalidBundle

HEAD = "base_model.model.classifier"


def zeros(*shape):
    return np.zeros(shape, np.float32)


def faults(adapter, manifest, *, for_training=False):
    with pytest.raises(AdapterMismatch) as caught:
        check_fits(adapter, manifest, for_training=for_training)
    first, *rest = str(caught.value).splitlines()
    assert first == f"some/adapter: does not fit the bundle of some/base; {len(rest)} mismatch(es)"
    return [line.removeprefix("  - ") for line in rest]


@pytest.mark.parametrize("for_training", [True, False])
def test_the_bundles_own_kind_fits(adapter, manifest, for_training):
    check_fits(adapter, manifest, for_training=for_training)
    check_fits(dataclasses.replace(adapter, card=None), manifest, for_training=for_training)


def test_every_mismatch_is_listed(adapter, manifest, changed):
    card = dataclasses.replace(adapter.card, base_sha256="b" * 64, task="text-generation", labels=("a", "b", "c"))
    tensors = {
        f"{QUERY}.lora_A.weight": zeros(2, 7),
        f"{QUERY}.lora_B.weight": zeros(9, 2),
        f"{QUERY}.base_layer.bias": None,
        f"{WORDS}.lora_embedding_A": None,
        f"{WORDS}.lora_embedding_B": StoredTensor(dtype="I8", shape=(3, 2), data=b"\0" * 6),
        "base_model.model.bert.key.lora_A.weight": zeros(2, 3),
        f"{HEAD}.weight": zeros(3, 4),
        f"{HEAD}.bias": zeros(3),
    }
    assert faults(changed(adapter, tensors=tensors, card=card, config={"task_type": "CAUSAL_LM"}), manifest) == [
        "trained on another base model (sha256 bbbbbbbbbbbb…; the bundle's base has aaaaaaaaaaaa…)",
        "trained for the task text-generation; the bundle's is text-classification",
        "3 label(s) (a, b, c); the bundle has 2 label(s) (negative, positive)",
        "task_type is 'CAUSAL_LM' in adapter_config.json; the bundle was built with 'SEQ_CLS'",
        f"{QUERY}.base_layer.bias: missing; the bundle trains it with bert.query",
        f"{WORDS}.lora_embedding_A: missing; the bundle trains it with bert.words",
        "base_model.model.bert.key.lora_A.weight: the bundle has no such part of an adapter",
        f"{QUERY}.lora_A.weight: shape (2, 7); expected (rank, 3): another in_features",
        f"{QUERY}.lora_B.weight: shape (9, 2); expected (4, rank): another out_features",
        f"{WORDS}.lora_embedding_B: dtype I8; expected one of F32, BF16, F16, F64",
        f"{HEAD}.bias: shape (3,); expected (2,): 3 label(s); the bundle has 2 label(s) (negative, positive)",
        f"{HEAD}.weight: shape (3, 4); expected (2, 4): 3 label(s); the bundle has 2 label(s) (negative, positive)",
    ]


def test_tensors_with_other_dimensions(adapter, manifest, changed):
    other = changed(adapter, tensors={f"{QUERY}.lora_A.weight": zeros(2), f"{HEAD}.weight": zeros(2, 4, 1)})
    assert faults(other, manifest) == [
        f"{QUERY}.lora_A.weight: shape (2,); expected (rank, 3): another in_features",
        f"{HEAD}.weight: shape (2, 4, 1); expected (2, 4)",
    ]


def test_biases_may_lack_only_where_the_config_has_none(adapter, manifest, changed):
    without = changed(adapter, tensors={f"{QUERY}.base_layer.bias": None, f"{QUERY}.lora_B.bias": None})
    assert len(faults(without, manifest)) == 2
    assert len(faults(changed(without, config={"bias": "none"}), manifest)) == 1
    plain = changed(without, config={"bias": "none", "lora_bias": False})
    check_fits(plain, manifest, for_training=False)
    assert len(faults(plain, manifest, for_training=True)) == 2


def test_copies_that_peft_adds(adapter, manifest, changed):
    copies = {f"{HEAD}.modules_to_save.bias": zeros(2), f"{HEAD}.original_module.bias": zeros(2)}
    check_fits(changed(adapter, tensors=copies), manifest, for_training=True)


@pytest.mark.parametrize(
    "key",
    [
        "base_model.model.head.modules_to_save.bias",
        "base_model.model.head.modules_to_save.default.bias",
        "base_model.model.head.bias",
    ],
)
def test_copies_of_one_parameter_have_one_key(key):
    assert same_parameter(key) == "base_model.model.head.bias"


def test_a_copy_of_a_base_weight_needs_the_same_base(adapter, manifest, changed):
    other = changed(adapter, tensors={f"{WORDS}.base_layer.weight": zeros(5, 3)})
    check_fits(other, manifest, for_training=True)
    (fault,) = faults(dataclasses.replace(other, card=None), manifest)
    assert fault.startswith(f"{WORDS}.base_layer.weight: a copy of a base weight, which may not be the bundle's; save")


def test_tying_must_agree(adapter, manifest, changed):
    tied = dataclasses.replace(manifest, peft_config={**manifest.peft_config, "ensure_weight_tying": False})
    check_fits(adapter, tied, for_training=False)  # written before there was such a setting
    (fault,) = faults(changed(adapter, config={"ensure_weight_tying": True}), tied)
    assert fault == "ensure_weight_tying is True in adapter_config.json; the bundle was built with False"


def test_an_adapter_of_another_method_is_a_mismatch_among_the_others(adapter, manifest, changed):
    other = changed(adapter, config={"peft_type": "OFT", "r": "no rank"}, tensors={f"{HEAD}.bias": None})
    assert faults(other, manifest) == [
        "an adapter of the type 'OFT'; the bundle was built for LoRA",
        f"{HEAD}.bias: missing; the bundle trains it with classifier",
    ]


def test_a_method_that_is_not_known(adapter, manifest):
    with pytest.raises(
        InvalidBundle, match=r"some/base: adapts by the method 'zeta', .* \(it knows .*lora.*\); update"
    ):
        check_fits(adapter, dataclasses.replace(manifest, method="zeta"), for_training=False)
