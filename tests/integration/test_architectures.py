"""Architectures that differ most, one layer or two each, adapted on every linear layer: each build passes parity.

The official training artifacts are made of each as well, where their tool can be installed.
"""

import shutil

import pytest
import torch
import transformers

from fieldtune.bundle.opening import open_bundle
from fieldtune.errors import UnsupportedModel
from fieldtune_offline import BuildSpec, MethodSpec, build_bundle
from fieldtune_offline.quiet import quiet_loading

pytestmark = pytest.mark.slow

SIZES = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 64,
}  # fmt: skip
TOKENS = {"vocab_size": 262, "bos_token_id": 1, "eos_token_id": 2}
ENCODER = {**SIZES, "vocab_size": 100}
DECODER = {**SIZES, **TOKENS, "pad_token_id": 2}
GROUPED = {**DECODER, "num_key_value_heads": 2}

ENCODERS = {
    "Roberta": {**ENCODER, "max_position_embeddings": 70, "pad_token_id": 1},
    "DistilBert": {
        "vocab_size": 100, "dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64,
    },
    "DebertaV2": {
        **ENCODER, "num_hidden_layers": 2, "relative_attention": True, "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True,
    },
    # Global and local attention take turns.
    "ModernBert": {
        **ENCODER, "num_hidden_layers": 2, "global_attn_every_n_layers": 2, "local_attention": 8, "pad_token_id": 0,
        "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3,
    },
}  # fmt: skip
DECODERS = {
    "GPT2": {**TOKENS, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64},
    "Bloom": {**TOKENS, "hidden_size": 32, "n_layer": 1, "n_head": 4, "pad_token_id": 2},
    "Qwen3": {**GROUPED, "head_dim": 8},
    "Phi3": GROUPED,
    # Sliding and full attention take turns, logits are capped.
    "Gemma2": {**GROUPED, "num_hidden_layers": 2, "head_dim": 8, "sliding_window": 8},
    "Falcon": {**TOKENS, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4},
}


@pytest.fixture
def model(tiny_models, tmp_path):
    """The function that writes a model with random weights beside a tiny one's tokenizer."""

    def write(family, settings, kind):
        folder = tmp_path / "model"
        shutil.copytree(tiny_models / kind, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        torch.manual_seed(0)
        loader = transformers.AutoModel if kind == "classifier" else transformers.AutoModelForCausalLM
        with quiet_loading():
            made = loader.from_config(getattr(transformers, f"{family}Config")(**settings))
            with torch.no_grad():
                for parameter in made.parameters():
                    if parameter.ndim > 1:
                        parameter.normal_(0, 0.15)
            made.save_pretrained(folder)
        return folder

    return write


def build(folder, out, kind, targets=("all-linear",), **changes):
    task = "text-classification" if kind == "classifier" else "text-generation"
    labels = ("a", "b") if kind == "classifier" else ()
    lora = MethodSpec(target_modules=targets)
    return build_bundle(BuildSpec(model=str(folder), task=task, out=out, labels=labels, method=lora, **changes))


CASES = [
    *((name, "classifier", settings) for name, settings in ENCODERS.items()),
    *((name, "lm", settings) for name, settings in DECODERS.items()),
]


@pytest.mark.parametrize(("family", "kind", "settings"), CASES, ids=[name for name, _, _ in CASES])
def test_a_family_builds_and_passes_parity(model, training_tool, tmp_path, family, kind, settings):
    manifest = build(model(family, settings, kind), tmp_path / "bundle", kind, ort_training=training_tool)
    assert manifest.base.architecture.startswith(family)
    trained = {parameter.key for parameter in manifest.layout.parameters}
    assert len(trained) >= 8
    for record in manifest.parity:
        assert record.loss_relative <= 1e-5
        assert record.gradient_relative <= 1e-4
        assert record.inference_relative <= 1e-4
        assert not record.vanishing_gradients
    if training_tool:
        assert len(manifest.ort_training.parity) == 2
        for record in manifest.ort_training.parity:
            assert record.loss_relative <= 1e-5
            assert record.gradient_relative <= 1e-4
    assert open_bundle(tmp_path / "bundle").manifest == manifest


MAMBA = {"vocab_size": 262, "hidden_size": 32, "num_hidden_layers": 1}
MIXTRAL = {**GROUPED, "num_local_experts": 2}


@pytest.mark.parametrize(
    ("family", "settings", "targets", "message"),
    [
        pytest.param("Mamba", MAMBA, ("all-linear",), "PEFT refuses the adapter.*out_proj", id="Mamba-all"),
        pytest.param("Mamba", MAMBA, ("in_proj",), "keeps no key-value cache", id="Mamba-one"),
        pytest.param("Mixtral", MIXTRAL, ("all-linear",), "convolutions in one group only", id="Mixtral-all"),
        pytest.param("Mixtral", MIXTRAL, ("q_proj",), "operators that have no ONNX lowering", id="Mixtral-one"),
    ],
)
def test_a_family_that_is_not_supported_is_refused(model, tmp_path, family, settings, targets, message):
    with pytest.raises(UnsupportedModel, match=message):
        build(model(family, settings, "lm"), tmp_path / "bundle", "lm", targets)
    assert not (tmp_path / "bundle").exists()
