"""Long rope: a model whose rotary frequencies depend on the length at hand, on either side of the limit."""

import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import AutoModelForCausalLM, Phi3Config

from fieldtune.bundle import open_bundle
from fieldtune_offline import BuildSpec, MethodSpec, build_bundle
from fieldtune_offline.spec import PrecisionSpec

pytestmark = pytest.mark.slow

LIMIT = 20
"""Positions up to which the short factors count."""


@pytest.fixture
def phi(tiny_models, tmp_path):
    folder = tmp_path / "phi"
    shutil.copytree(tiny_models / "lm", folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    words = AutoModelForCausalLM.from_pretrained(tiny_models / "lm").config
    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=words.vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4 * LIMIT,
        original_max_position_embeddings=LIMIT,
        rope_scaling={"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [float(n + 2) for n in range(8)]},
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        initializer_range=0.3,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("base", ["float32", "int4"])
def test_both_sides_of_the_limit_are_transformers_own(phi, tmp_path, base):
    method = MethodSpec(rank=2, target_modules=("qkv_proj",))
    settings = {"task": "text-generation", "method": method, "base": PrecisionSpec(name=base)}
    build_bundle(BuildSpec(model=str(phi), out=tmp_path / "bundle", **settings))  # compared at 17 and 34 positions
    if base != "float32":
        return
    bundle = open_bundle(tmp_path / "bundle")
    session = onnxruntime.InferenceSession(str(bundle.graph_path("infer")), providers=["CPUExecutionProvider"])
    model = AutoModelForCausalLM.from_pretrained(phi).eval()
    for length, long in ((LIMIT, False), (LIMIT + 1, True)):
        ids = np.arange(length, dtype=np.int64)[None] % 50
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(length)[None]}
        for given in session.get_inputs():
            if given.name.startswith("past"):
                feeds[given.name] = np.zeros((1, 1, 0, 16), np.float32)
        (logits,) = session.run(["logits"], feeds)
        with torch.no_grad():
            expected = model(torch.from_numpy(ids)).logits.numpy()
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
        first = float(model.model.rotary_emb.inv_freq[0])
        assert first == pytest.approx(0.5 if long else 1)
