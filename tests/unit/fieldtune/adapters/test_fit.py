import dataclasses
import math

import numpy as np
import pytest

from fieldtune.adapters.adapter import same_parameter
from fieldtune.adapters.fit import check_fits, scales
from fieldtune.adapters.tensors import StoredTensor
from fieldtune.errors import AdapterMismatch, InvalidAdapter

QUERY, WORDS, HEAD = "base_model.model.bert.query", "base_model.model.bert.words", "base_model.model.classifier"


def zeros(*shape):
    return np.zeros(shape, np.float32)


def faults(adapter, manifest, *, for_training=False):
    with pytest.raises(AdapterMismatch) as caught:
        check_fits(adapter, manifest, for_training=for_training)
    first, *rest = str(caught.value).splitlines()
    assert first == f"some/adapter: does not fit the bundle of some/base; {len(rest)} mismatch(es)"
    return [line.removeprefix("  - ") for line in rest]


def rank_three(changed, adapter, **config):
    tensors = {
        f"{QUERY}.lora_A.weight": zeros(3, 3),
        f"{QUERY}.lora_B.weight": zeros(4, 3),
        f"{WORDS}.lora_embedding_A": zeros(3, 5),
        f"{WORDS}.lora_embedding_B": zeros(3, 3),
    }
    return changed(adapter, config={"r": 3, **config}, tensors=tensors)


@pytest.mark.parametrize("for_training", [True, False])
def test_the_bundles_own_kind_fits(adapter, manifest, for_training):
    check_fits(adapter, manifest, for_training=for_training)
    check_fits(dataclasses.replace(adapter, card=None), manifest, for_training=for_training)


def test_any_rank_and_alpha_fits_for_inference_only(adapter, manifest, changed):
    other = rank_three(changed, adapter, lora_alpha=5)
    check_fits(other, manifest, for_training=False)
    (fault,) = faults(other, manifest, for_training=True)
    assert fault == (
        "rank 3 in 2 modules (bert.query, …); training continues only at the bundle's own rank, 2: build a bundle from "
        "this adapter: fieldtune-offline build some/base --task text-classification --adapter some/adapter --out NEW"
    )


def test_training_needs_the_scale_that_the_gradient_graph_has(adapter, manifest, changed):
    (fault,) = faults(changed(adapter, config={"alpha_pattern": {"query": 2}}), manifest, for_training=True)
    assert fault.startswith("scale (alpha / rank) 1 in bert.query; the bundle's gradient graph has 4: build a bundle")


def test_training_refuses_an_initialization_that_freezes_b(adapter, manifest, changed):
    other = changed(adapter, config={"init_lora_weights": "mica"})
    check_fits(other, manifest, for_training=False)
    assert faults(other, manifest, for_training=True)[0].startswith("init_lora_weights 'mica' keeps B frozen")


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
        f"{QUERY}.base_layer.bias: missing; the bundle trains it (bias of bert.query)",
        f"{WORDS}.lora_embedding_A: missing; the bundle trains it (lora_embedding_a of bert.words)",
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


def test_ranks_must_be_those_of_the_config(adapter, manifest, changed):
    other = changed(adapter, config={"rank_pattern": {"query": 4}})
    assert faults(other, manifest) == [
        "bert.query.lora_A.weight: rank 2; adapter_config.json says 4",
        "bert.query.lora_B.weight: rank 2; adapter_config.json says 4",
    ]
    with pytest.raises(InvalidAdapter, match=r"some/adapter: ranks of .* differ\n  - bert.query.lora_A.weight: rank 2"):
        scales(other, ["bert.query"])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, (4, 4)),
        ({"lora_alpha": 3}, (1.5, 1.5)),
        ({"use_rslora": True}, (8 / math.sqrt(2), 8 / math.sqrt(2))),
        ({"alpha_pattern": {"query": 1}}, (0.5, 4)),
        ({"alpha_pattern": {"uery": 1}}, (4, 4)),
        ({"alpha_pattern": {"^bert.words": 1}}, (4, 0.5)),
        ({"alpha_pattern": {"que.*": 1, "query": 100, "bert.(words|key)": 2.5}}, (0.5, 1.25)),
        ({"alpha_pattern": None, "rank_pattern": None}, (4, 4)),
        ({"rank_pattern": {"bert.query": 2, "words": 2}, "r": 64}, (4, 4)),
    ],
)
def test_scales_follow_the_patterns(adapter, changed, config, expected):
    found = scales(changed(adapter, config=config), ["bert.query", "bert.words"])
    assert found == pytest.approx({"bert.query": expected[0], "bert.words": expected[1]}, rel=1e-15)


def test_defaults_are_those_of_peft(adapter):
    bare = dataclasses.replace(adapter, config={"peft_type": "LORA", "rank_pattern": {".*": 2}})
    assert scales(bare, ["bert.query"]) == {"bert.query": 4.0}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"r": "2"}, r"some/adapter: adapter_config.json: 'r' is a string"),
        ({"r": 0}, r"'r' is 0; expected at least 1"),
        ({"lora_alpha": None}, r"'lora_alpha' is null; expected a number"),
        ({"rank_pattern": {"query": 0}}, r"adapter_config.json: rank_pattern: 'query' is 0"),
        ({"rank_pattern": ["query"]}, r"rank_pattern: expected a table"),
        ({"alpha_pattern": {"query": "x"}}, r"alpha_pattern: 'query' is a string"),
        ({"alpha_pattern": {"(": 1}}, r"the pattern '.*' is not a regular expression"),
        ({"use_rslora": 1}, r"'use_rslora' is an integer"),
    ],
)
def test_settings_of_another_type(adapter, changed, config, message):
    with pytest.raises(InvalidAdapter, match=message):
        scales(changed(adapter, config=config), ["bert.query"])
