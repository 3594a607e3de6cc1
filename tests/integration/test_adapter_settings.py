"""Builds with every setting of an adapter that is honoured, in combinations: each passes parity with torch and PEFT.

The official training artifacts of each compute the same, where their tool can be installed.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from fieldtune_offline import BuildSpec, MethodSpec, build_bundle
from fieldtune_offline.models import load_base
from fieldtune_offline.quiet import quiet_loading
from fieldtune_offline.tasks.table import task_class

pytestmark = pytest.mark.slow

CASES = {
    # A regular expression, ranks and alphas of their own, every bias, whole norms.
    "patterns": (
        "classifier",
        {
            "target_modules": r".*\.(query|value|output\.dense)", "rank_pattern": {"query": 3}, "bias": "all",
            "alpha_pattern": {"layer.1.attention.self.value": 5}, "use_rslora": True, "modules_to_save": ["LayerNorm"],
        },
        {"lora_a", "lora_b", "bias", "saved"},
    ),
    "chosen": (
        "classifier",
        {
            "target_modules": ["query", "key", "value", "dense"], "exclude_modules": ["key"], "bias": "lora_only",
            "layers_to_transform": [1], "lora_bias": True, "init_lora_weights": False,
        },
        {"lora_a", "lora_b", "bias", "saved"},
    ),
    "embedding": (
        "classifier",
        {"target_modules": ["word_embeddings", "query"], "r": 3, "lora_alpha": 5, "modules_to_save": ["pooler"]},
        {"lora_embedding_a", "lora_embedding_b", "lora_a", "lora_b", "saved"},
    ),
    # One weight is embedding and head; each has an adapter of its own.
    "tied": (
        "lm",
        {"target_modules": ["embed_tokens", "lm_head", "q_proj"], "init_lora_weights": "orthogonal"},
        {"lora_embedding_a", "lora_embedding_b", "lora_a", "lora_b"},
    ),
    "saved-embedding": (
        "lm",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head", "norm"]},
        {"lora_a", "lora_b", "saved"},
    ),
    "conv1d": (
        "gpt2",
        {"target_modules": ["c_attn", "c_proj", "wte"], "bias": "lora_only"},
        {"lora_embedding_a", "lora_embedding_b", "lora_a", "lora_b", "bias"},
    ),
    "decoder-classifier": ("lm-classifier", {"target_modules": ["q_proj", "down_proj"]}, {"lora_a", "lora_b", "saved"}),
}  # fmt: skip


@pytest.fixture
def spec(tiny_models, tmp_path):
    """The function that describes a build of one of the models with fields of LoraConfig."""

    def describe(kind, settings, **changes):
        folder = tiny_models / ("classifier" if kind == "classifier" else "lm")
        if kind == "gpt2":
            folder = tmp_path / "gpt2"
            shutil.copytree(tiny_models / "lm", folder)
            torch.manual_seed(0)
            config = GPT2Config(
                vocab_size=262, n_embd=32, n_layer=1, n_head=4, n_positions=64, initializer_range=0.2, bos_token_id=1,
                eos_token_id=2,
            )  # fmt: skip
            with quiet_loading():
                GPT2LMHeadModel(config).save_pretrained(folder)
        (tmp_path / "peft.json").write_text(json.dumps(settings))
        return BuildSpec(
            model=str(folder),
            task="text-classification" if kind.endswith("classifier") else "text-generation",
            labels=("a", "b", "c") if kind.endswith("classifier") else (),
            out=tmp_path / "bundle",
            method=MethodSpec(peft_config=tmp_path / "peft.json"),
            **changes,
        )

    return describe


def kind_of(parameter):
    """What a tensor is: a part of LoRA's, a bias, or a saved one."""
    if parameter.replaces is not None or parameter.rank_axis is None:
        return "bias" if parameter.optional else "saved"
    return parameter.key.removesuffix(".weight").rpartition(".")[2].lower()


@pytest.mark.parametrize(("kind", "settings", "roles"), CASES.values(), ids=CASES)
def test_a_bundle_computes_what_peft_computes(spec, training_tool, kind, settings, roles):
    manifest = build_bundle(spec(kind, settings, ort_training=training_tool))
    assert {kind_of(parameter) for parameter in manifest.layout.parameters} == roles
    for record in manifest.parity:
        assert record.loss_relative <= 1e-5
        assert record.gradient_relative <= 1e-4
        assert record.inference_relative <= 1e-4
        # A bias of the keys moves every score of a row alike, which softmax takes back out.
        assert all(key.endswith("key.bias") for key in record.vanishing_gradients)
    if training_tool:
        assert len(manifest.ort_training.parity) == 2
        for record in manifest.ort_training.parity:
            assert record.loss_relative <= 1e-5
            assert record.gradient_relative <= 2e-4
    for field, value in settings.items():
        found = manifest.peft_config[field]
        assert (set(value) <= set(found)) if isinstance(value, list) else found == value


def test_a_bundle_starts_from_an_existing_adapter(spec, tmp_path):
    start = tmp_path / "start"
    fresh = spec("lm", {})
    with quiet_loading():
        config = LoraConfig(
            task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], r=4, lora_alpha=6, use_rslora=True,
            rank_pattern={"v_proj": 2}, modules_to_save=["norm"],
        )  # fmt: skip
        model = get_peft_model(load_base(fresh, task_class(fresh.task)).model, config)
        torch.manual_seed(3)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(start)
    manifest = build_bundle(spec("lm", {}, adapter=start))
    given, held = (load_file(path / "adapter_model.safetensors") for path in (start, tmp_path / "bundle" / "adapter"))
    assert set(given) == set(held) == {parameter.key for parameter in manifest.layout.parameters}
    for key, tensor in given.items():
        np.testing.assert_array_equal(held[key], tensor)
    assert manifest.peft_config["use_rslora"] is True
    assert manifest.peft_config["rank_pattern"] == {"v_proj": 2}
    assert max(record.gradient_relative for record in manifest.parity) <= 1e-4
