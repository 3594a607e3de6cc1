"""PEFT itself as the judge: its directories in, ours out, the same numbers from both."""

import json

import numpy as np
import pytest

from builders import lora_manifest
from fieldtune.adapters.adapter import PREFIX
from fieldtune.adapters.arrays import from_theta, inference_inputs, to_theta
from fieldtune.adapters.directory import read_adapter, write_adapter
from fieldtune.adapters.fit import check_fits
from fieldtune.adapters.methods.lora import METHOD
from fieldtune.bundle.opening import Bundle
from fieldtune.errors import AdapterMismatch

pytestmark = [
    # Both are told to people who write models, and neither is about the adapter.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
    # PEFT takes a one-dimensional lora_B.bias for a sharded tensor.
    pytest.mark.filterwarnings("ignore:Adapter 'default'. .* LoRA tensor"),
]

ROLES = {
    ".lora_A.weight": "lora_a",
    ".lora_B.weight": "lora_b",
    ".lora_embedding_A": "lora_embedding_a",
    ".lora_embedding_B": "lora_embedding_b",
    ".lora_B.bias": "lora_bias",
    ".base_layer.bias": "bias",
}
ATTENTION = ["query", "value"]
BERT = {
    "plain": {"target_modules": ATTENTION},
    "head in bfloat16": {"target_modules": ATTENTION, "modules_to_save": ["classifier"]},
    "patterns": {
        "target_modules": [*ATTENTION, "dense"],
        "rank_pattern": {"value": 6, "layer.1.*query": 2, "intermediate.dense": 1},
        "alpha_pattern": {"^bert.encoder.layer.0.attention.self.query": 3, "dense": 32},
    },
    "rslora": {"target_modules": ATTENTION, "use_rslora": True, "rank_pattern": {"query": 2}},
    "lora_only biases": {"target_modules": ATTENTION, "bias": "lora_only"},
    "all biases": {"target_modules": ATTENTION, "bias": "all"},
    "lora_bias": {"target_modules": ATTENTION, "lora_bias": True},
    "embeddings": {"target_modules": ["word_embeddings", "query"], "rank_pattern": {"query": 2}},
}


def bert():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config)


def llama():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    return transformers.LlamaForCausalLM(config)


def adapted(model, folder, *, dtype="float32", **settings):
    """A PEFT model with random values in every trainable tensor, saved to a folder."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=12, **settings)).to(getattr(torch, dtype))
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    wrapped.save_pretrained(folder)
    return wrapped.eval()


def lora_layers(model):
    layer = pytest.importorskip("peft.tuners.lora").LoraLayer
    return [(name, module) for name, module in model.named_modules() if isinstance(module, layer)]


def manifest_for(adapter, labels=("a", "b", "c")):
    rows = []
    for key, tensor in adapter.tensors.tensors.items():
        if ".modules_to_save." in key or ".original_module." in key or key.endswith(".base_layer.weight"):
            continue
        suffix = next((end for end in ROLES if key.endswith(end)), None)
        role = ROLES[suffix] if suffix else "saved" if "classifier" in key else "bias"
        module = key.removeprefix(PREFIX).removesuffix(suffix or "." + key.rpartition(".")[2])
        rows.append((key, role, module, tensor.shape))
    return lora_manifest(rows, dict(adapter.config), labels=labels)


def logits(model):
    torch = pytest.importorskip("torch")
    ids = torch.arange(3, 13).reshape(2, 5)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def loaded(base, folder):
    peft = pytest.importorskip("peft")
    return peft.PeftModel.from_pretrained(base, folder).eval()


@pytest.fixture(autouse=True)
def seeded():
    pytest.importorskip("torch").manual_seed(0)


@pytest.mark.parametrize("settings", BERT.values(), ids=BERT.keys())
def test_a_directory_goes_through_unchanged(tmp_path, settings):
    dtype = "bfloat16" if "modules_to_save" in settings else "float32"
    adapted(bert(), tmp_path / "theirs", dtype=dtype, task_type="SEQ_CLS", **settings)
    write_adapter(read_adapter(tmp_path / "theirs"), tmp_path / "ours")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()


@pytest.mark.parametrize("settings", BERT.values(), ids=BERT.keys())
def test_scales_are_those_that_peft_applies(tmp_path, settings):
    model = adapted(bert(), tmp_path / "a", task_type="SEQ_CLS", **settings)
    expected = {name.removeprefix(PREFIX): layer.scaling["default"] for name, layer in lora_layers(model)}
    assert len(expected) >= 3
    assert METHOD.scales(read_adapter(tmp_path / "a"), expected) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("settings", BERT.values(), ids=BERT.keys())
def test_inference_inputs_multiply_to_what_peft_adds(tmp_path, settings):
    model = adapted(bert(), tmp_path / "a", task_type="SEQ_CLS", **settings)
    adapter = read_adapter(tmp_path / "a")
    inputs = inference_inputs(adapter, Bundle(tmp_path, manifest_for(adapter)))
    layers = lora_layers(model)
    assert len(layers) >= 3
    for name, module in layers:
        # An embedding's weight is (num_embeddings, embedding_dim), a linear layer's is (out_features, in_features).
        embedding = f"{name}.lora_embedding_A" in inputs
        a, b = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
        found = inputs[f"{name}.{a}"] @ inputs[f"{name}.{b}"]
        expected = module.get_delta_weight("default").detach().numpy()
        np.testing.assert_allclose(found, expected if embedding else expected.T, rtol=1e-5, atol=1e-6)
        if f"{name}.lora_B.bias" in inputs:
            bias = module.lora_B["default"].bias.detach().numpy() * module.scaling["default"]
            np.testing.assert_allclose(inputs[f"{name}.lora_B.bias"], bias, rtol=1e-6)
    assert len({inputs[key].shape[1] for key in inputs if key.endswith(("lora_A.weight", "lora_embedding_A"))}) == 1


@pytest.mark.parametrize("settings", BERT.values(), ids=BERT.keys())
def test_peft_computes_with_ours_what_it_computed_with_its_own(tmp_path, settings):
    torch = pytest.importorskip("torch")
    base = bert()
    weights = {key: value.clone() for key, value in base.state_dict().items()}
    expected = logits(adapted(base, tmp_path / "theirs", task_type="SEQ_CLS", **settings))

    adapter = read_adapter(tmp_path / "theirs")
    manifest = manifest_for(adapter)
    theta = to_theta(adapter, manifest)
    write_adapter(from_theta(theta, manifest, adapter, ("a", "b", "c"), {"steps": 0}), tmp_path / "ours")
    fresh = bert()
    fresh.load_state_dict(weights)
    assert torch.equal(logits(loaded(fresh, tmp_path / "ours")), expected)

    write_adapter(from_theta(theta * np.float32(0.5), manifest, adapter, ("a", "b", "c"), None), tmp_path / "half")
    again = bert()
    again.load_state_dict(weights)
    half = loaded(again, tmp_path / "half")
    assert not torch.equal(logits(half), expected)
    saved = {key.replace(".default", "").replace(".modules_to_save", ""): t for key, t in half.state_dict().items()}
    for parameter in manifest.layout.parameters:
        np.testing.assert_array_equal(
            saved[parameter.key].numpy(), adapter.tensors.tensors[parameter.key].float32() * np.float32(0.5)
        )


def test_a_language_model_in_bfloat16_with_a_copy_of_its_embeddings(tmp_path):
    torch = pytest.importorskip("torch")
    base = llama()
    weights = {key: value.clone() for key, value in base.state_dict().items()}
    targets = ["embed_tokens", "q_proj", "down_proj"]
    model = adapted(base, tmp_path / "theirs", dtype="bfloat16", task_type="CAUSAL_LM", target_modules=targets)
    adapter = read_adapter(tmp_path / "theirs")
    assert {tensor.dtype for tensor in adapter.tensors.tensors.values()} == {"BF16"}
    manifest = manifest_for(adapter, labels=())
    with pytest.raises(AdapterMismatch, match=r"embed_tokens.base_layer.weight: a copy of a base weight"):
        check_fits(adapter, manifest, for_training=False)

    model.save_pretrained(tmp_path / "lean", save_embedding_layers=False)
    lean = read_adapter(tmp_path / "lean")
    write_adapter(from_theta(to_theta(lean, manifest), manifest, lean, (), None), tmp_path / "ours")
    ours = (tmp_path / "ours" / "adapter_model.safetensors").read_bytes()
    assert ours == (tmp_path / "lean" / "adapter_model.safetensors").read_bytes()
    fresh = llama()
    fresh.load_state_dict(weights)
    fresh.to(torch.bfloat16)
    assert torch.equal(logits(loaded(fresh, tmp_path / "ours").to(torch.bfloat16)), logits(model))


def test_keys_of_a_later_release_survive(tmp_path):
    adapted(llama(), tmp_path / "a", task_type="CAUSAL_LM", target_modules=["q_proj"])
    path = tmp_path / "a" / "adapter_config.json"
    config = {"zz_new": {"deep": [1, 2.5e-7, None]}, **json.loads(path.read_text()), "aa_new": "ü"}
    path.write_text(json.dumps(config))
    write_adapter(read_adapter(tmp_path / "a"), tmp_path / "b")
    assert list(json.loads((tmp_path / "b" / path.name).read_text()).items()) == list(config.items())
