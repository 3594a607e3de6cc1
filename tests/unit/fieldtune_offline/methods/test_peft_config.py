"""PEFT's configuration of a method on a small network: honoured field by field, or refused by the field's name."""

import json
from pathlib import Path

import pytest
from peft import IA3Config, LoraConfig
from torch import nn

from fieldtune.errors import InvalidAdapter, UnsupportedModel
from fieldtune_offline.methods.peft_config import (
    check_config,
    check_names,
    check_targeted,
    new_config,
    read_config,
    stored_config,
)
from fieldtune_offline.methods.table import method_named
from fieldtune_offline.spec import MethodSpec
from fieldtune_offline.tasks.text_classification import TextClassification
from fieldtune_offline.tasks.text_generation import TextGeneration

LORA, IA3 = method_named("lora"), method_named("ia3")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.ModuleList(nn.ModuleDict({"query": nn.Linear(2, 2), "value": nn.Linear(2, 2)}) for _ in "ab")
        self.norm = nn.LayerNorm(2)


@pytest.fixture
def made(tmp_path):
    """The function from settings, and fields of a file, to LoRA's configuration."""

    def run(fields=None, new_modules=(), method=LORA, **settings):
        if fields is not None:
            (tmp_path / "peft.json").write_text(json.dumps(fields))
            settings["peft_config"] = tmp_path / "peft.json"
        return new_config(method, MethodSpec(**settings), TextClassification, new_modules)

    return run


def test_settings_become_fields_and_a_new_head_is_saved(made):
    found = made(target_modules=("query",), rank=3, alpha=5, modules_to_save=("norm",), new_modules=["head"])
    assert (found.r, found.lora_alpha, found.target_modules, found.modules_to_save, found.task_type) == (
        3, 5, {"query"}, ["head", "norm"], "SEQ_CLS",
    )  # fmt: skip
    plain = made()
    assert (plain.r, plain.lora_alpha, plain.target_modules, plain.modules_to_save) == (8, 16, None, None)
    assert made(target_modules=("all-linear",)).target_modules == "all-linear"


def test_a_file_wins_over_the_settings(made):
    assert made({"r": 2, "task_type": "CAUSAL_LM"}, rank=3, alpha=5).r == 2
    assert made({"r": 2, "task_type": "CAUSAL_LM"}).task_type == "SEQ_CLS"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lora_alfa": 3}, r"peft\.json: LoraConfig has no field 'lora_alfa' \(nearest: lora_alpha"),
        ({"layers_to_transform": [0], "target_modules": ".*query"}, "LoraConfig refuses these settings: "),
    ],
)
def test_what_is_no_configuration(made, fields, message):
    with pytest.raises(UnsupportedModel, match=message):
        made(fields)


@pytest.mark.parametrize(("text", "message"), [("[1]", "expected a JSON object"), ("{", "not a JSON file")])
def test_a_file_that_is_none(tmp_path, text, message):
    path = tmp_path / "peft.json"
    path.write_text(text)
    with pytest.raises(UnsupportedModel, match=rf"peft\.json: {message}"):
        read_config(path)
    with pytest.raises(UnsupportedModel, match=r"none\.json: not a JSON file"):
        read_config(tmp_path / "none.json")


def test_what_is_set_and_not_honoured_is_refused_all_at_once():
    check_config(LORA, LoraConfig(r=3, target_modules=["query"], use_rslora=True, inference_mode=True), "here")
    with pytest.raises(UnsupportedModel) as caught:
        check_config(LORA, LoraConfig(lora_dropout=0.5, init_lora_weights="pissa"), "here")
    first, *faults = str(caught.value).splitlines()
    assert first == "here: settings of LoraConfig that are not supported"
    assert faults == [
        "  - lora_dropout=0.5: dropout would make the graph random; set it to 0",
        "  - init_lora_weights='pissa': it rewrites the base's weights, which a bundle shares between adapters",
    ]


def test_an_initialization_that_leaves_the_base_alone_is_honoured():
    for way in (True, False, "gaussian"):
        check_config(LORA, LoraConfig(init_lora_weights=way), "here")


def test_every_name_must_match_a_module():
    check_names(Net(), LoraConfig(target_modules=["query", "layer.1.value"], modules_to_save=["norm"]))
    check_names(Net(), LoraConfig(target_modules="all-linear"))
    check_names(Net(), LoraConfig(target_modules=r".*\.1\.query"))
    with pytest.raises(UnsupportedModel) as caught:
        check_names(
            Net(), LoraConfig(target_modules=["query", "valeu"], exclude_modules=r".*\.key", modules_to_save=["nrom"])
        )
    first, *faults = str(caught.value).splitlines()
    assert first == "names that match nothing in the model"
    assert faults[0].startswith("  - target_modules: 'valeu'; nearest: value")
    assert faults[1].startswith("  - exclude_modules '.*\\\\.key'; modules end in: ")
    assert faults[2].startswith("  - modules_to_save: 'nrom'; nearest: norm")


def test_a_part_of_a_name_is_none():
    with pytest.raises(UnsupportedModel, match="target_modules: 'uery'"):
        check_names(Net(), LoraConfig(target_modules=["uery"]))


def test_settings_of_what_is_not_adapted_are_refused():
    targeted = ["layer.0.query", "layer.1.query"]
    check_targeted(targeted, LoraConfig(rank_pattern={"query": 2, r"layer\.0\..*": 3}, alpha_pattern={"0.query": 2}))
    check_targeted(targeted, IA3Config())
    with pytest.raises(UnsupportedModel) as caught:
        check_targeted(
            targeted,
            LoraConfig(target_modules=["query"], rank_pattern={"value": 2, "uery": 2}, layers_to_transform=[0, 7]),
        )
    assert str(caught.value).splitlines() == [
        "settings for what is not adapted (it is: layer.0.query, layer.1.query, …)",
        "  - rank_pattern: 'value'",
        "  - rank_pattern: 'uery'",
        "  - layers_to_transform: 7",
    ]


def test_a_stored_configuration_is_read_for_its_task_alone(tmp_path):
    LoraConfig(r=3, task_type="SEQ_CLS").save_pretrained(tmp_path)
    assert stored_config(LORA, tmp_path, TextClassification).r == 3
    with pytest.raises(InvalidAdapter, match="task_type is SEQ_CLS; expected CAUSAL_LM for text-generation"):
        stored_config(LORA, tmp_path, TextGeneration)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(InvalidAdapter, match=r"adapter_config\.json cannot be read"):
        stored_config(LORA, Path(tmp_path), TextClassification)


def test_another_methods_fields_are_its_own(made):
    found = made(method=IA3, target_modules=("query",), feedforward_modules=("query",))
    assert (found.feedforward_modules, found.task_type) == ({"query"}, "SEQ_CLS")
    with pytest.raises(UnsupportedModel, match="IA3Config has no field 'r'"):
        made({"r": 3}, method=IA3)
