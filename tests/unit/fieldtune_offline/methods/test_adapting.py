"""The adapter on the torch model: every setting honoured or refused by name, and the layout of what is trained."""

import dataclasses
import json

import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file, save_file

from fieldtune.adapters.adapter import AdapterCard
from fieldtune.errors import InvalidAdapter, UnsupportedModel
from fieldtune_offline import BuildSpec, MethodSpec
from fieldtune_offline.methods.adapting import adapt, checkpoint_name
from fieldtune_offline.models import load_base
from fieldtune_offline.quiet import quiet_loading
from fieldtune_offline.tasks.table import task_class

CLASSIFIER, LM = "text-classification", "text-generation"
PREFIX = "base_model.model."

# Any value but the default of every field that is not honoured.
REFUSED = {
    "lora_dropout": 0.1,
    "init_lora_weights": "pissa",
    "megatron_config": {"tensor_model_parallel_size": 2},
    "trainable_token_indices": [1, 2],
    "loftq_config": {"loftq_bits": 4},
    "eva_config": {"rho": 2.0},
    "corda_config": {"corda_method": "kpm"},
    "lora_ga_config": {"direction": "ArB2r"},
    "velora_config": {"num_groups": 4},
    "alora_invocation_tokens": [1],
    "use_qalora": True,
    "monteclora_config": {"num_samples": 2},
    "layer_replication": [[0, 1], [0, 2]],
    "runtime_config": {"ephemeral_gpu_offload": True},
    "target_parameters": ["query.weight"],
    "use_bdlora": {"nblocks": 2},
    "arrow_config": {"top_k": 2},
    "kasa_config": {"beta": 1.0},
    "ensure_weight_tying": True,
}
HONOURED = {
    "r": 3,
    "target_modules": ["key"],
    "exclude_modules": ["layer.0.attention.self.query"],
    "lora_alpha": 3,
    "bias": "lora_only",
    "use_rslora": True,
    "modules_to_save": ["pooler"],
    "layers_to_transform": [1],
    "layers_pattern": ["layer"],
    "rank_pattern": {"layer.1.attention.self.query": 2},
    "alpha_pattern": {"query": 2},
    "lora_bias": True,
}
# What says where a configuration comes from, what PEFT sets by the kind of layer, and the set-up of refused fields.
SILENT = {
    "use_dora",  # makes it another method
    "fan_in_fan_out",
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "megatron_core", "qalora_group_size",
}  # fmt: skip


@pytest.fixture
def adapted(tiny_models, tmp_path):
    """The function that loads a tiny model and puts an adapter on it."""

    def run(task=CLASSIFIER, *, settings=None, adapter=None, labels=None, model=None, seed=0, **lora):
        if settings is not None:
            (tmp_path / "peft.json").write_text(json.dumps(settings))
            lora["peft_config"] = tmp_path / "peft.json"
        spec = BuildSpec(
            model=str(model or tiny_models / ("classifier" if task == CLASSIFIER else "lm")),
            task=task,
            out=tmp_path / "out",
            labels=labels if labels is not None else ("a", "b", "c") if task == CLASSIFIER else (),
            method=MethodSpec(**lora),
            adapter=adapter,
            seed=seed,
        )
        kind = task_class(task)
        return adapt(load_base(spec, kind), spec, kind)

    return run


def keys(adapted):
    return [parameter.key for parameter in adapted.layout.parameters]


def kind(parameter):
    """What a tensor is: a part of LoRA's, a bias, or a saved one."""
    if parameter.replaces is not None or parameter.rank_axis is None:
        return "bias" if parameter.optional else "saved"
    return parameter.key.removesuffix(".weight").rpartition(".")[2].lower()


def modules(adapted, role):
    return {parameter.module for parameter in adapted.layout.parameters if kind(parameter) == role}


def layer(adapted, name):
    return adapted.model.get_submodule(f"{PREFIX}{name}")


def moved(adapted):
    """Change every trained tensor, so that an adapter is no fresh one."""
    generator = torch.Generator().manual_seed(5)
    tensors = dict(adapted.model.named_parameters())
    with torch.no_grad():
        for name in adapted.names.values():
            tensors[name].add_(torch.randn(tensors[name].shape, generator=generator) * 0.1)
    return adapted


def test_every_field_of_the_installed_peft_is_known():
    assert set(REFUSED) | set(HONOURED) | SILENT == {field.name for field in dataclasses.fields(peft.LoraConfig)}


@pytest.mark.parametrize(("field", "value"), REFUSED.items(), ids=REFUSED)
def test_a_field_that_is_not_honoured_is_refused_by_name(adapted, field, value):
    with pytest.raises(UnsupportedModel, match=field):
        adapted(target_modules=("query",), settings={field: value})


@pytest.mark.parametrize(("field", "value"), HONOURED.items(), ids=HONOURED)
def test_a_field_that_is_honoured_reaches_the_model(adapted, field, value):
    settings = {"target_modules": ["query"], field: value}
    if field == "layers_pattern":
        settings["layers_to_transform"] = [0]
    result = adapted(settings=settings)
    found = getattr(result.config, field)
    assert (set(value) <= set(found)) if isinstance(value, list) else found == value


def test_every_fault_of_a_configuration_is_listed(adapted):
    with pytest.raises(UnsupportedModel, match=r"(?s)lora_dropout=0\.5: dropout would.*use_qalora=True: not supp"):
        adapted(target_modules=("query",), settings={"lora_dropout": 0.5, "use_qalora": True})


def test_an_unknown_field_is_refused_with_the_nearest(adapted):
    with pytest.raises(UnsupportedModel, match=r"no field 'lora_alfa' \(nearest: lora_alpha"):
        adapted(settings={"lora_alfa": 3})


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not a JSON file"), ("[]", "expected a JSON object"), ('{"peft_type": "OFT"}', "peft_type is OFT")],
)
def test_a_configuration_that_is_none(adapted, tmp_path, text, message):
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(UnsupportedModel, match=f"broken.json: {message}"):
        adapted(peft_config=tmp_path / "broken.json")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["querry"]}, "target_modules: 'querry'; nearest: query"),
        ({"target_modules": ["query", "valeu"]}, "target_modules: 'valeu'; nearest: value"),
        ({"target_modules": r".*\.nothing"}, r"target_modules '\.\*\\\\\.nothing'; modules end in: .*query"),
        ({"target_modules": ["query"], "modules_to_save": ["poler"]}, "modules_to_save: 'poler'; nearest: pooler"),
        ({"target_modules": ["query"], "exclude_modules": ["kee"]}, "exclude_modules: 'kee'; nearest: key"),
        ({"target_modules": ["query"], "rank_pattern": {"key": 2}}, "rank_pattern: 'key'"),
        ({"target_modules": ["query"], "alpha_pattern": {"layer.7.*": 2}}, r"alpha_pattern: 'layer\.7\.\*'"),
        ({"target_modules": ["query"], "layers_to_transform": [0, 9]}, "layers_to_transform: 9"),
        ({"target_modules": ["query"], "layers_to_transform": 9}, "PEFT refuses the adapter: No modules"),
        ({"target_modules": ["query"], "exclude_modules": ["query"]}, "PEFT refuses the adapter: No modules"),
        ({"target_modules": ["LayerNorm"]}, r"PEFT refuses the adapter: .*LayerNorm.* is not supported"),
        ({"target_modules": "("}, "PEFT refuses the adapter: "),
        ({"target_modules": ["query"], "bias": "some"}, "PEFT refuses the adapter: Requested bias: some"),
        ({"target_modules": ["query"], "r": 0}, "PEFT refuses the adapter: `r` should be a positive integer"),
    ],
)
def test_a_name_that_matches_nothing_is_refused(adapted, settings, message):
    with pytest.raises(UnsupportedModel, match=message):
        adapted(settings=settings)


def test_a_layer_of_an_unknown_kind_is_refused(adapted, tiny_models, monkeypatch):
    from peft.tuners.lora import Linear

    class Other(Linear):
        pass

    monkeypatch.setattr("peft.tuners.lora.Linear", Other)  # so that what PEFT made is not what is known
    with pytest.raises(UnsupportedModel, match=r"convolutions in one group only\n.*query: Linear"):
        adapted(target_modules=("query",))


def test_a_regular_expression(adapted):
    result = adapted(settings={"target_modules": r".*\.layer\.1\..*\.(query|value)"})
    assert modules(result, "lora_a") == {f"bert.encoder.layer.1.attention.self.{name}" for name in ("query", "value")}


def test_all_linear_spares_the_head(adapted):
    found = modules(adapted(target_modules=("all-linear",)), "lora_a")
    assert len(found) == 2 * 6 + 1
    assert "bert.pooler.dense" in found
    assert "classifier" not in found


def test_excluded_modules_and_chosen_layers(adapted):
    chosen = {"target_modules": ["query", "value"], "exclude_modules": ["value"], "layers_to_transform": [1]}
    assert modules(adapted(settings=chosen), "lora_a") == {"bert.encoder.layer.1.attention.self.query"}


def test_patterns_give_modules_their_own_rank_and_alpha(adapted):
    result = adapted(
        rank=4, alpha=8, target_modules=("query", "value"),
        settings={"rank_pattern": {"value": 2}, "alpha_pattern": {"layer.1.attention.self.query": 5}},
    )  # fmt: skip
    shapes = {(p.module.rsplit(".", 1)[-1], p.shape) for p in result.layout.parameters if kind(p) == "lora_a"}
    assert shapes == {("query", (4, 32)), ("value", (2, 32))}
    scales = {
        (number, name): layer(result, f"bert.encoder.layer.{number}.attention.self.{name}").scaling["default"]
        for number in (0, 1)
        for name in ("query", "value")
    }
    assert scales == {(0, "query"): 2.0, (0, "value"): 4.0, (1, "query"): 1.25, (1, "value"): 4.0}


def test_rslora_scales_by_the_root_of_the_rank(adapted):
    result = adapted(rank=4, alpha=6, rslora=True, target_modules=("query",))
    assert layer(result, "bert.encoder.layer.0.attention.self.query").scaling["default"] == 3.0


def test_biases(adapted):
    none = adapted(target_modules=("query",))
    assert modules(none, "bias") == set()
    only = adapted(target_modules=("query",), bias="lora_only")
    assert modules(only, "bias") == {f"bert.encoder.layer.{n}.attention.self.query" for n in (0, 1)}
    every = adapted(target_modules=("query",), bias="all")
    biases = {name for name, _ in every.model.named_parameters() if name.endswith(".bias") and "classifier" not in name}
    assert len(modules(every, "bias")) == len(biases) == 18
    own = adapted(target_modules=("query",), settings={"lora_bias": True})
    assert [p.shape for p in own.layout.parameters if p.key.endswith("lora_B.bias")] == [(32,), (32,)]


def test_saved_modules_are_trained_whole(adapted):
    result = adapted(target_modules=("query",), modules_to_save=("pooler", "word_embeddings"))
    assert modules(result, "saved") == {"bert.pooler.dense", "bert.embeddings.word_embeddings", "classifier"}
    assert result.config.modules_to_save.count("classifier") == 1


def test_a_new_head_is_saved_and_repeats_by_its_seed(adapted):
    def head(seed):
        return dict(adapted(target_modules=("query",), seed=seed).model.named_parameters())[
            f"{PREFIX}classifier.modules_to_save.default.weight"
        ]

    assert torch.equal(head(1), head(1))
    assert not torch.equal(head(1), head(2))
    assert head(1).shape == (3, 32)


def test_an_embedding(adapted):
    result = adapted(LM, target_modules=("embed_tokens",), rank=3)
    (a, b) = result.layout.parameters
    assert (a.key, kind(a), a.shape) == (f"{PREFIX}model.embed_tokens.lora_embedding_A", "lora_embedding_a", (3, 262))
    assert (b.key, kind(b), b.shape) == (f"{PREFIX}model.embed_tokens.lora_embedding_B", "lora_embedding_b", (32, 3))


def test_a_tied_head_and_its_embedding_get_an_adapter_each(adapted):
    result = adapted(LM, target_modules=("lm_head", "embed_tokens"))
    assert modules(result, "lora_a") == {"lm_head"}
    assert modules(result, "lora_embedding_a") == {"model.embed_tokens"}
    base = dict(result.model.named_modules())
    head, embedding = base[f"{PREFIX}lm_head"], base[f"{PREFIX}model.embed_tokens"]
    assert head.base_layer.weight is embedding.base_layer.weight


def test_conv1d_is_a_linear_layer_whose_weight_lies_the_other_way(adapted, tiny_models, tmp_path):
    import shutil

    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path / "gpt2"
    shutil.copytree(tiny_models / "lm", folder)
    GPT2LMHeadModel(GPT2Config(vocab_size=262, n_embd=32, n_layer=1, n_head=2, n_positions=64)).save_pretrained(folder)
    result = adapted(LM, model=folder, target_modules=("c_attn",))
    assert result.config.fan_in_fan_out is True
    assert [p.shape for p in result.layout.parameters] == [(8, 32), (96, 8)]


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        (CLASSIFIER, {"target_modules": ["query"], "bias": "all", "modules_to_save": ["LayerNorm"]}),
        (CLASSIFIER, {"target_modules": "all-linear", "bias": "lora_only", "lora_bias": True}),
        (CLASSIFIER, {"target_modules": ["word_embeddings"], "modules_to_save": ["pooler"]}),
        (LM, {"target_modules": ["embed_tokens", "lm_head", "q_proj"], "rank_pattern": {"q_proj": 2}}),
        (LM, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "norm"]}),
    ],
)
def test_the_layout_is_what_peft_saves_without_gaps(adapted, tmp_path, task, settings):
    result = moved(adapted(task, settings=settings))
    with quiet_loading():
        result.model.save_pretrained(tmp_path / "saved", save_embedding_layers=False)
    saved = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    # With bias="all", PEFT also writes the bias of a saved module under longer keys, and its unused original.
    longer = {key for key in saved if ".modules_to_save." in key or ".original_module." in key}
    assert set(keys(result)) == set(saved) - longer

    theta = result.layout.pack({key: saved[key] for key in keys(result)})
    ends = [parameter.offset + parameter.size for parameter in result.layout.parameters]
    assert [parameter.offset for parameter in result.layout.parameters] == [0, *ends[:-1]]
    assert theta.size == ends[-1] == result.layout.size
    trained = dict(result.model.named_parameters())
    for parameter in result.layout.parameters:
        tensor = trained[result.names[parameter.key]]
        np.testing.assert_array_equal(result.layout.views(theta)[parameter.key], tensor.detach().numpy())
        assert parameter.decay == (len(parameter.shape) > 1), parameter.key
    required = {name for name, tensor in trained.items() if tensor.requires_grad}
    assert required == set(result.names.values())


SETTINGS = {
    "plain": {"target_modules": ["query"]},
    "everything": {
        "target_modules": ["query", "word_embeddings"], "bias": "all", "modules_to_save": ["pooler"],
        "rank_pattern": {"query": 3}, "use_rslora": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_an_existing_adapter_is_the_starting_point(adapted, tmp_path, settings):
    first = moved(adapted(settings=settings))
    first.model.save_pretrained(tmp_path / "saved", save_embedding_layers=False)
    again = adapted(adapter=tmp_path / "saved")
    assert again.layout == first.layout
    before, after = (dict(result.model.named_parameters()) for result in (first, again))
    for key in keys(first):
        assert torch.equal(before[first.names[key]], after[again.names[key]]), key
    for module in first.model.targeted_module_names:
        assert layer(again, module).scaling == layer(first, module).scaling
    assert {name for name, t in after.items() if t.requires_grad} == set(again.names.values())


def test_label_names_come_with_an_adapter_unless_others_are_given(adapted, tmp_path):
    adapted().model.save_pretrained(tmp_path / "saved", save_embedding_layers=False)
    card = AdapterCard(base_sha256=None, task=CLASSIFIER, labels=("sad", "glad", "so-so"))
    (tmp_path / "saved" / "fieldtune.json").write_text(card.to_json())
    found = [
        adapted(adapter=tmp_path / "saved", labels=labels).model.config.id2label for labels in ((), ("x", "y", "z"))
    ]
    assert found == [{0: "sad", 1: "glad", 2: "so-so"}, {0: "x", 1: "y", 2: "z"}]


@pytest.fixture
def stored(adapted, tmp_path):
    """The function that saves an adapter of the classifier, after a change of its configuration and tensors."""

    def run(*, config=None, tensors=None, **lora):
        folder = tmp_path / "saved"
        adapted(target_modules=("query",), **lora).model.save_pretrained(folder, save_embedding_layers=False)
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **(config or {})}))
        if tensors is not None:
            path = folder / "adapter_model.safetensors"
            save_file(tensors(load_file(path)), path, metadata={"format": "pt"})
        return folder

    return run


QUERY = f"{PREFIX}bert.encoder.layer.0.attention.self.query"


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        ({"use_dora": True}, None, "lora_magnitude_vector: missing"),
        ({"lora_dropout": 0.1}, None, r"lora_dropout=0\.1: dropout"),
        ({"init_lora_weights": "pissa"}, None, "init_lora_weights"),
        ({"peft_type": "OFT"}, None, "OFT"),
        ({"task_type": "CAUSAL_LM"}, None, "task_type is CAUSAL_LM; expected SEQ_CLS"),
        ({"r": 5}, None, "size mismatch"),
        ({"target_modules": ["key"]}, None, r"query\.lora_A\.weight: belongs to nothing"),
        ({"target_modules": ["nothing"]}, None, "does not fit"),
        ({"modules_to_save": None, "task_type": None}, None, r"classifier\.weight: belongs to nothing"),
        (None, lambda held: {k: v for k, v in held.items() if k != f"{QUERY}.lora_B.weight"}, "lora_B.weight: missing"),
        (None, lambda held: {**held, "base_model.model.x": held[f"{QUERY}.lora_A.weight"]}, "model.x: belongs to noth"),
        (None, lambda held: {k: v[:, :-1].copy() if v.ndim > 1 else v for k, v in held.items()}, "size mismatch"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(adapted, stored, config, tensors, message):
    folder = stored(config=config, tensors=tensors)
    with pytest.raises((InvalidAdapter, UnsupportedModel), match=message):
        adapted(adapter=folder)


def test_a_head_that_neither_base_nor_adapter_brings_is_missed(adapted, stored):
    def headless(held):
        return {key: tensor for key, tensor in held.items() if "classifier" not in key}

    folder = stored(config={"modules_to_save": None, "task_type": None}, tensors=headless)
    with pytest.raises(InvalidAdapter, match="classifier: the base has no weights for it, and the adapter brings none"):
        adapted(adapter=folder)


def test_an_adapter_with_another_number_of_labels_is_refused(adapted, stored):
    folder = stored()
    with pytest.raises(InvalidAdapter, match=r"(?s)saved: does not fit .*size mismatch"):
        adapted(adapter=folder, labels=("a", "b"))


def test_an_adapter_of_another_task_is_refused(adapted, stored):
    folder = stored()
    with pytest.raises(InvalidAdapter, match="task_type is SEQ_CLS; expected CAUSAL_LM for text-generation"):
        adapted(LM, adapter=folder)


def test_a_folder_that_is_no_adapter_is_refused(adapted, tmp_path):
    with pytest.raises(InvalidAdapter, match="not a PEFT adapter"):
        adapted(adapter=tmp_path)
    with pytest.raises(InvalidAdapter, match="no such folder"):
        adapted(adapter=tmp_path / "nothing")


def test_a_pickled_adapter_is_refused(adapted, stored):
    folder = stored()
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InvalidAdapter, match="a pickle, which is never read"):
        adapted(adapter=folder)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("base_model.model.classifier.weight", "classifier.weight"),
        ("base_model.model.layer.0.query.base_layer.bias", "layer.0.query.bias"),
        ("base_model.model.norm.modules_to_save.bias", "norm.bias"),
    ],
)
def test_names_are_those_of_a_checkpoint(key, name):
    assert checkpoint_name(key) == name
