"""LoRA on the device: ranks and scales by PEFT's rules, and what its adapters may not have."""

import dataclasses
import math

import numpy as np
import pytest

from builders import QUERY, WORDS, lora_config
from fieldtune.adapters.fit import check_fits
from fieldtune.adapters.methods.lora import METHOD
from fieldtune.errors import AdapterMismatch, InvalidAdapter

scales = METHOD.scales


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
        ({"r": 1 << 70}, r"'r' is an integer \(of 71 bits\); expected one that fits into 64 bits with its sign"),
        ({"lora_alpha": math.nan}, r"'lora_alpha' is a number \(nan\); expected a finite one"),
        ({"lora_alpha": 10**400}, r"'lora_alpha' is an integer \(of 1329 bits\); expected a number"),
        ({"alpha_pattern": {"a{99999999999}": 1}}, r"the pattern 'a\{9*\}' is not a regular expression"),
        ({"rank_pattern": {"(" * 5000 + ")" * 5000: 1}}, r"the pattern '\(+\)+' is not a regular expression"),
    ],
)
def test_settings_of_another_type(adapter, changed, config, message):
    with pytest.raises(InvalidAdapter, match=message):
        scales(changed(adapter, config=config), ["bert.query"])


def test_settings_in_words_and_for_people():
    config = lora_config(bias="none", lora_bias=False, target_modules=["query"], alpha_pattern={"query": 1})
    assert METHOD.described(config) == "rank 2, alpha 8"
    assert METHOD.settings(config) == {
        "rank": 2,
        "alpha": 8,
        "targets": ["query"],
        "saved": None,
        "alpha_pattern": {"query": 1},
    }


def test_what_may_be_lacking_and_what_may_be_there_twice(manifest):
    after_b, of_base = manifest.layout.parameters[2:4]
    assert METHOD.may_lack(lora_config(lora_bias=False), after_b)
    assert not METHOD.may_lack(lora_config(lora_bias=True, bias="none"), after_b)
    assert METHOD.may_lack(lora_config(bias="none"), of_base)
    assert METHOD.copies(manifest) == {f"{QUERY}.base_layer.weight", f"{WORDS}.base_layer.weight"}
