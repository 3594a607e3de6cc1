"""A small bundle's manifest and an adapter that fits it, made without PEFT."""

import dataclasses

import numpy as np
import pytest

from fieldtune.adapters.adapter import Adapter, AdapterCard
from fieldtune.adapters.tensors import StoredTensor, TensorFile
from fieldtune.bundle.layout import Layout, ParameterSpec
from fieldtune.bundle.manifest import BaseModelSpec, Manifest, TaskSpec, TextSpec

QUERY, WORDS = "base_model.model.bert.query", "base_model.model.bert.words"
IN, OUT, VOCAB, DIM = 3, 4, 5, 3
LABELS = ("negative", "positive")

CONFIG = {
    "zeta": {"from": "a later release"},
    "peft_type": "LORA",
    "task_type": "SEQ_CLS",
    "base_model_name_or_path": "some/base",
    "r": 2,
    "lora_alpha": 8,
    "bias": "lora_only",
    "lora_bias": True,
    "rank_pattern": {},
    "alpha_pattern": {},
    "use_rslora": False,
    "inference_mode": False,
}

FACTS = {
    "lora_a": {"axes": ("rank", "in_features"), "transposed": True},
    "lora_b": {"axes": ("out_features", "rank"), "transposed": True, "scaled": True},
    "lora_embedding_a": {"axes": ("rank", "num_embeddings"), "transposed": True},
    "lora_embedding_b": {"axes": ("embedding_dim", "rank"), "transposed": True, "scaled": True},
    "lora_bias": {"axes": ("out_features",), "scaled": True, "optional": True, "decay": False},
    "bias": {"axes": ("features",), "optional": True, "decay": False},
}


def specification(key, kind, module, shape, offset):
    """The specification of one tensor; of a saved one where its kind is "saved"."""
    facts = FACTS.get(kind) or {"axes": ("out_features", "in_features")[: len(shape)]}
    if kind in ("bias", "saved"):
        facts = {**facts, "replaces": key.removeprefix("base_model.model.").replace(".base_layer.", ".")}
    return ParameterSpec(key=key, module=module, shape=shape, offset=offset, **{"decay": True, **facts})


def parameters(rank):
    return [
        (f"{QUERY}.lora_A.weight", "lora_a", "bert.query", (rank, IN)),
        (f"{QUERY}.lora_B.weight", "lora_b", "bert.query", (OUT, rank)),
        (f"{QUERY}.lora_B.bias", "lora_bias", "bert.query", (OUT,)),
        (f"{QUERY}.base_layer.bias", "bias", "bert.query", (OUT,)),
        (f"{WORDS}.lora_embedding_A", "lora_embedding_a", "bert.words", (rank, VOCAB)),
        (f"{WORDS}.lora_embedding_B", "lora_embedding_b", "bert.words", (DIM, rank)),
        ("base_model.model.classifier.bias", "saved", "classifier", (len(LABELS),)),
        ("base_model.model.classifier.weight", "saved", "classifier", (len(LABELS), OUT)),
    ]


def make_manifest(parameters, peft_config, labels=LABELS, task="text-classification"):
    specs, offset = [], 0
    for key, kind, module, shape in parameters:
        specs.append(specification(key, kind, module, tuple(shape), offset))
        offset += specs[-1].size
    return Manifest(
        base=BaseModelSpec(
            id="some/base", revision=None, sha256="a" * 64, architecture="Bert", licence=None, dtypes={}
        ),
        task=TaskSpec(name=task, labels=labels),
        method="lora",
        text=TextSpec(max_length=8, pad_token_id=0, stop_token_ids=(), special_tokens={}, chat_template=None),
        image=None,
        peft_config=peft_config,
        layout=Layout(tuple(specs)),
        graphs={},
        parity=(),
        tools={},
        files={},
    )


@pytest.fixture
def manifest_of():
    """The function that makes a manifest from (key, kind, module, shape) rows and a configuration."""
    return make_manifest


@pytest.fixture
def manifest():
    return make_manifest(parameters(2), CONFIG)


@pytest.fixture
def adapter():
    rng = np.random.default_rng(0)
    tensors = {
        key: StoredTensor.from_float32(rng.standard_normal(shape).astype(np.float32), "F32")
        for key, _, _, shape in parameters(2)
    }
    return Adapter(
        config=CONFIG,
        tensors=TensorFile(tensors=tensors, metadata={"format": "pt"}),
        card=AdapterCard(base_sha256="a" * 64, task="text-classification", labels=LABELS),
        where="some/adapter",
    )


@pytest.fixture
def changed():
    """The function that returns an adapter with other settings or tensors (None: without it)."""

    def change(adapter, *, config=None, tensors=None, **fields):
        held = {**adapter.tensors.tensors, **(tensors or {})}
        held = {
            key: StoredTensor.from_float32(value, "F32") if isinstance(value, np.ndarray) else value
            for key, value in held.items()
            if value is not None
        }
        return dataclasses.replace(
            adapter,
            config={**adapter.config, **(config or {})},
            tensors=dataclasses.replace(adapter.tensors, tensors=held),
            **fields,
        )

    return change
