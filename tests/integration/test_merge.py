"""Merging: a merged bundle's graphs compute what PEFT's model does, merged and unmerged, for adapters of every kind."""

import json
import shutil

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

import fieldtune_offline.merge
from fieldtune.adapters.arrays import from_theta, inference_inputs, to_theta
from fieldtune.adapters.directory import read_adapter, write_adapter
from fieldtune.bundle.node_tables import read_node_table
from fieldtune.bundle.opening import open_bundle
from fieldtune.errors import (
    AdapterMismatch,
    ExportError,
    InvalidBundle,
    InvalidData,
    OutputError,
    ParityError,
    UnsupportedModel,
)
from fieldtune_offline import BuildSpec, MethodSpec, build_bundle
from fieldtune_offline.cli import main
from fieldtune_offline.merge import merge_adapter
from fieldtune_offline.ort_training.export import export_ort_training
from fieldtune_offline.parity import merge as merge_parity
from fieldtune_offline.passes.split_at_logits import split_at_logits
from fieldtune_offline.quiet import quiet_loading
from fieldtune_offline.spec import MergeSpec

TOLERANCE = 1e-5
"""Of the largest element: each merged weight is rounded once, and the sums come in another order."""

CASES = {
    "biases-norms-ranks": (
        "classifier",
        {
            "target_modules": r".*\.(query|value|output\.dense)", "rank_pattern": {"query": 3}, "bias": "all",
            "alpha_pattern": {"layer.1.attention.self.value": 5}, "use_rslora": True, "modules_to_save": ["LayerNorm"],
        },
    ),
    "lora-bias": (
        "classifier",
        {"target_modules": ["query", "dense"], "layers_to_transform": [1], "bias": "lora_only", "lora_bias": True},
    ),
    "embedding": ("classifier", {"target_modules": ["word_embeddings", "query"], "r": 3, "lora_alpha": 5}),
    "gpt2": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "bias": "lora_only"}),
    "convolutions": ("vision", {"target_modules": ["convolution"], "bias": "all"}),
    "dora": (
        "classifier",
        {
            "use_dora": True, "target_modules": ["query", "dense"], "rank_pattern": {"query": 3}, "bias": "lora_only",
            "modules_to_save": ["LayerNorm"],
        },
    ),
    "dora-embedding": ("classifier", {"use_dora": True, "target_modules": ["word_embeddings", "value"], "r": 3}),
    "dora-gpt2": ("gpt2", {"use_dora": True, "target_modules": ["c_attn", "c_proj"]}),
    "dora-convolutions": ("vision", {"use_dora": True, "target_modules": ["convolution"], "lora_alpha": 5}),
    "ia3": (
        "classifier",
        {
            "peft_type": "IA3", "target_modules": ["query", "intermediate.dense", "output.dense"],
            "feedforward_modules": ["output.dense"], "modules_to_save": ["LayerNorm"],
        },
    ),
    "ia3-gpt2": (
        "gpt2", {"peft_type": "IA3", "target_modules": ["c_attn", "c_fc"], "feedforward_modules": ["c_fc"]},
    ),
    # 5 does not divide the 32 inputs.
    "miss": (
        "classifier", {"peft_type": "MISS", "target_modules": ["query", "dense"], "r": 5, "bias": "MiSS_only"},
    ),
}  # fmt: skip
# PEFT folds an adapter of one of two tied layers into both, and cannot unload IA³ beside a head of several layers: only
# its unmerged model says what is right.
UNMERGED = {
    "tied-both": ("lm", {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    "tied-saved": ("lm", {"target_modules": ["down_proj"], "modules_to_save": ["embed_tokens"]}),
    "tied-dora": ("lm", {"use_dora": True, "target_modules": ["embed_tokens", "q_proj"]}),
    "tied-ia3": ("lm", {"peft_type": "IA3", "target_modules": ["lm_head", "k_proj"], "feedforward_modules": []}),
    "tied-miss": ("lm", {"peft_type": "MISS", "target_modules": ["lm_head", "q_proj"], "r": 4}),
    "ia3-convolutions": (
        "vision",
        {
            "peft_type": "IA3",
            "target_modules": ["layer.0.convolution", "layer.1.convolution"],
            "feedforward_modules": ["layer.1.convolution"],
        },
    ),
}
TASKS = {"classifier": "text-classification", "vision": "image-classification"}


@pytest.fixture
def noisy(tmp_path):
    """The function that writes an adapter for a bundle, far from its initial values, and returns its folder."""

    def write(bundle, name="noisy", labels=()):
        opened = open_bundle(bundle)
        manifest, initial = opened.manifest, read_adapter(opened.adapter_path)
        theta = to_theta(initial, manifest)
        theta += np.random.default_rng(5).normal(0, 0.1, theta.shape).astype(np.float32)
        write_adapter(from_theta(theta, manifest, initial, labels or manifest.task.labels, None), tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def build(tiny, tiny_models, tmp_path):
    """The function that builds a bundle of a tiny model with fields of LoraConfig; returns model and bundle."""

    def make(kind, settings):
        folder = tiny_models / kind
        if kind == "vision" and not folder.exists():
            tiny.vision(folder)
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
        task = TASKS.get(kind, "text-generation")
        labels = ("a", "b", "c") if kind in TASKS else ()
        lora = MethodSpec(peft_config=tmp_path / "peft.json")
        build_bundle(BuildSpec(model=str(folder), task=task, labels=labels, out=tmp_path / "bundle", method=lora))
        return folder, tmp_path / "bundle"

    return make


def _merge(bundle, adapter, out, report=lambda _: None, **settings):
    return merge_adapter(MergeSpec(bundle=bundle, adapter=adapter, out=out, **settings), report)


def _run(path, feeds, names=("logits",)):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(list(names), feeds)


def _feeds(bundle):
    """Return a batch for infer.onnx, without padding, and what torch is fed."""
    manifest = open_bundle(bundle).manifest
    rng = np.random.default_rng(1)
    if manifest.image:
        pixels = rng.normal(0, 1, (3, 3, manifest.image.height, manifest.image.width)).astype(np.float32)
        return {"pixel_values": pixels}, {"pixel_values": torch.from_numpy(pixels)}
    ids = rng.integers(3, 100, (3, 12))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    asked = {name: torch.from_numpy(array) for name, array in feeds.items()}
    if manifest.task.name == "text-generation":
        feeds["position_ids"] = np.tile(np.arange(12), (3, 1))
        for spec in manifest.graphs["infer"].inputs:
            if spec.name.startswith("past"):
                feeds[spec.name] = np.zeros((3, spec.shape[1], 0, spec.shape[3]), np.float32)
    return feeds, asked


def _peft(kind, folder, adapter, asked, *, merge):
    """Return the logits of PEFT's model, its adapter merged or not."""
    auto = {"classifier": AutoModelForSequenceClassification, "vision": AutoModelForImageClassification}
    settings = {"num_labels": 3, "ignore_mismatched_sizes": True} if kind in TASKS else {}
    with quiet_loading(), torch.no_grad():
        base = auto.get(kind, AutoModelForCausalLM).from_pretrained(folder, attn_implementation="eager", **settings)
        model = PeftModel.from_pretrained(base, str(adapter)).eval()
        model = model.merge_and_unload() if merge else model
        return model(**asked).logits.numpy()


def _close(found, expected):
    largest = np.abs(expected).max()
    assert largest > 0.01
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * largest)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, *UNMERGED])
def test_a_merge_computes_what_peft_computes(build, noisy, tmp_path, case):
    kind, settings = (CASES | UNMERGED)[case]
    folder, bundle = build(kind, settings)
    adapter = noisy(bundle)
    manifest = _merge(bundle, adapter, tmp_path / "merged")
    feeds, asked = _feeds(bundle)
    found = _run(tmp_path / "merged" / "graphs" / "infer.onnx", feeds)[0]
    _close(found, _peft(kind, folder, adapter, asked, merge=False))
    if case in CASES:
        _close(found, _peft(kind, folder, adapter, asked, merge=True))
    for record in manifest.merged.parity:
        assert record.loss_relative <= TOLERANCE
        assert record.inference_relative <= TOLERANCE
    for name in ("eval", "infer"):
        graph = ir.load(tmp_path / "merged" / "graphs" / f"{name}.onnx").graph
        assert [value.name for value in graph.inputs] == [spec.name for spec in manifest.graphs[name].inputs]
        assert not [node.name for node in graph if "lora" in node.metadata_props.get("module", "")]
        assert not [name for name in graph.initializers if name.startswith("base_model")]
        before = ir.load(bundle / "graphs" / f"{name}.onnx").graph
        assert len(graph) < len(before)


@pytest.mark.parametrize("name", ["tiny-classifier", "static-classifier", "tiny-lm", "tiny-vision"])
def test_a_merged_bundle_answers_as_the_bundle_with_the_adapter(tiny_bundles, noisy, tmp_path, name):
    source = open_bundle(tiny_bundles / name)
    adapter = noisy(source.root)
    manifest = _merge(source.root, adapter, tmp_path / "merged")
    merged = open_bundle(tmp_path / "merged")
    assert merged.manifest == manifest
    fed = inference_inputs(read_adapter(adapter), source)
    fixed = source.manifest.graphs["infer"].inputs[0].shape
    feeds, _ = _feeds(source.root)
    if isinstance(fixed[0], int):
        feeds = {key: np.ones(fixed, np.int64) for key in feeds}
    names = [spec.name for spec in manifest.graphs["infer"].outputs]
    found = _run(merged.graph_path("infer"), feeds, names)
    for array, expected in zip(found, _run(source.graph_path("infer"), {**feeds, **fed}, names), strict=True):
        _close(array, expected)


def test_what_a_merged_bundle_holds(tiny_bundles, noisy, tmp_path):
    source = open_bundle(tiny_bundles / "tiny-classifier")
    adapter = noisy(source.root, "kitchen", ("cold", "warm"))
    stages = []
    manifest = _merge(source.root, adapter, tmp_path / "merged", report=stages.append)
    assert len(stages) == 2
    assert sorted(path.name for path in (tmp_path / "merged").rglob("*") if path.is_file()) == [
        "eval.nodes.json", "eval.onnx", "infer.nodes.json", "infer.onnx", "manifest.json", "tokenizer.json",
        "weights.safetensors",
    ]  # fmt: skip
    assert manifest.task.labels == ("cold", "warm")
    assert manifest.layout.parameters == ()
    assert manifest.peft_config == {}
    assert manifest.merged.adapter == "kitchen"
    assert manifest.merged.base_sha256 == source.manifest.base.sha256 != manifest.base.sha256
    assert manifest.merged.peft_config["r"] == 4
    with safe_open(tmp_path / "merged" / "graphs" / "weights.safetensors", "np") as tensors:
        names = set(tensors.keys())
        query = tensors.get_tensor("bert.encoder.layer.1.attention.self.query.weight")
        head = tensors.get_tensor("classifier.weight")
    assert not [name for name in names if "lora" in name or "base_model" in name]
    stored = read_adapter(adapter).tensors.tensors
    module = "base_model.model.bert.encoder.layer.1.attention.self.query"
    update = 8 / 4 * stored[f"{module}.lora_B.weight"].float32() @ stored[f"{module}.lora_A.weight"].float32()
    with safe_open(source.root / "graphs" / "weights.safetensors", "np") as tensors:
        base = tensors.get_tensor("bert.encoder.layer.1.attention.self.query.weight")
    np.testing.assert_allclose(query, base + update, rtol=1e-6, atol=1e-6)
    assert np.array_equal(head, stored["base_model.model.classifier.weight"].float32())
    again = _merge(source.root, adapter, tmp_path / "merged", overwrite=True)
    assert again.base.sha256 == manifest.base.sha256


def test_the_whole_network_is_quantized_for_a_target(tiny_bundles, noisy, tmp_path):
    source, pictures = tiny_bundles / "tiny-vision", tiny_bundles / "models" / "pictures"
    settings = {"target": ("kv260",), "calibration": pictures, "calibration_examples": 24}
    manifest = _merge(source, noisy(source), tmp_path / "merged", **settings)
    assert list(manifest.graphs) == ["eval", "infer", "prefix", "suffix_eval", "suffix_infer", "prefix_kv260"]
    assert manifest.split.boundary[0].shape == ("batch", 2)
    target = manifest.targets["kv260"]
    assert target.calibration_examples == 24
    assert target.accuracy.measure == "model"
    assert target.accuracy.boundary_snr_db > 20
    opened = open_bundle(tmp_path / "merged")
    counts = [
        sum(
            node.op in ("Conv", "Gemm")
            for node in read_node_table(opened.root / opened.manifest.graphs[name].nodes).nodes
        )
        for name in ("infer", "prefix", "prefix_kv260", "suffix_infer")
    ]
    assert counts == [10, 10, 10, 0]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["dora-convolutions", "ia3-convolutions"])
def test_a_network_with_an_adapter_of_another_method_is_quantized_whole(build, noisy, tiny_bundles, tmp_path, case):
    _, bundle = build(*(CASES | UNMERGED)[case])
    pictures = tmp_path / "pictures"
    for number, label in enumerate(("a", "b", "c")):
        source = tiny_bundles / "models" / "pictures" / ("dark", "light")[number % 2]
        shutil.copytree(source, pictures / label)
    settings = {"target": ("kv260",), "calibration": pictures, "calibration_examples": 24}
    manifest = _merge(bundle, noisy(bundle), tmp_path / "merged", **settings)
    target = manifest.targets["kv260"]
    assert target.accuracy.measure == "model"
    assert target.accuracy.boundary_snr_db > 20
    table = read_node_table(tmp_path / "merged" / manifest.graphs["prefix_kv260"].nodes)
    assert not [node.name for node in table.nodes if node.op == "Mul"]


@pytest.mark.parametrize("wrong", ["prefix", "suffix_infer"])
def test_a_cut_that_computes_something_else_is_not_written(tiny_bundles, noisy, tmp_path, monkeypatch, wrong):
    source, pictures = tiny_bundles / "tiny-vision", tiny_bundles / "models" / "pictures"

    def split(*graphs):
        cut = split_at_logits(*graphs)
        (graph,) = (graph.model.graph for graph in cut.graphs if graph.name == wrong)
        given = graph.inputs[0]
        bent = ir.node("Sin", [given])
        given.replace_all_uses_with(bent.outputs[0])
        bent.replace_input_with(0, given)
        bent.outputs[0].type, bent.outputs[0].shape = given.type, given.shape
        graph.insert_before(graph[0], bent)
        return cut

    monkeypatch.setattr(fieldtune_offline.merge, "split_at_logits", split)
    with pytest.raises(ParityError, match=r"suffix_infer.onnx's logits differs by") as caught:
        _merge(source, noisy(source), tmp_path / "merged", target=("kv260",), calibration=pictures)
    assert ("suffix_eval.onnx's loss_sum differs by" in str(caught.value)) == (wrong == "prefix")
    assert not (tmp_path / "merged").exists()


def test_calibration_examples_that_cannot_be_used_are_named_before_anything_is_folded(tiny_bundles, noisy, tmp_path):
    source, image = tiny_bundles / "tiny-vision", tiny_bundles / "models" / "pictures" / "dark" / "00.npy"
    adapter = noisy(source, labels=("night", "day"))
    table = tmp_path / "examples.jsonl"
    for row, words in (
        ({"image": str(image), "label": "dark"}, "examples.jsonl"),
        ({"image": "lost.png", "label": "night"}, "lost.png"),
    ):
        table.write_text(json.dumps(row) + "\n")
        stages = []
        with pytest.raises(InvalidData, match=words):
            _merge(source, adapter, tmp_path / "merged", stages.append, target=("kv260",), calibration=table)
        assert stages == [f"reading {table}"]
        assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("tiny-lm", {}, UnsupportedModel, "text-generation cannot run on an accelerator"),
        ("static-vision", {}, UnsupportedModel, "needs a bundle that takes any batch"),
        ("tiny-classifier", {}, UnsupportedModel, "texts of one length"),
        ("tiny-vision", {"calibration": None}, ValueError, "the target kv260 needs --calibration"),
        ("tiny-vision", {"target": ()}, ValueError, "--calibration, --calibration-examples: of targets only"),
        ("tiny-vision", {"calibration_examples": 0}, ValueError, "calibration_examples is 0; expected at least 1"),
        ("tiny-vision", {"target": ("cpu-generic",)}, ExportError, "has no accelerator"),
    ],
)
def test_targets_that_are_refused(tiny_bundles, noisy, tmp_path, name, settings, error, message):
    source, pictures = tiny_bundles / name, tiny_bundles / "models" / "pictures"
    asked = {"target": ("kv260",), "calibration": pictures, "calibration_examples": 8, **settings}
    with pytest.raises(error, match=message):
        _merge(source, noisy(source), tmp_path / "merged", **asked)
    assert not (tmp_path / "merged").exists()


def test_merges_that_are_refused(tiny_bundles, noisy, tmp_path, monkeypatch):
    source = tiny_bundles / "tiny-classifier"
    with pytest.raises(AdapterMismatch, match="mismatch"):
        _merge(tiny_bundles / "tiny-lm", noisy(source), tmp_path / "merged")
    _merge(source, tmp_path / "noisy", tmp_path / "merged")
    with pytest.raises(OutputError, match="exists"):
        _merge(source, tmp_path / "noisy", tmp_path / "merged")
    with pytest.raises(AdapterMismatch, match="merged into its weights"):
        _merge(tmp_path / "merged", tmp_path / "noisy", tmp_path / "twice")
    with pytest.raises(InvalidBundle, match="the adapter noisy is merged into its weights"):
        export_ort_training(tmp_path / "merged")
    monkeypatch.setattr(merge_parity, "MERGE_TOLERANCE", 1e-12)
    with pytest.raises(ParityError, match=r"batch 3, sequence 17: infer.onnx's logits after 0 tokens differs by"):
        _merge(source, tmp_path / "noisy", tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert not (tmp_path / "twice").exists()


def test_the_command(tiny_bundles, noisy, tmp_path, capsys):
    source = tiny_bundles / "tiny-vision"
    out = tmp_path / "merged"
    assert main(["merge", str(source), str(noisy(source)), "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["merged"]["adapter"] == "noisy"
    assert len(printed["merged"]["parity"]) == 2
    assert main(["parity", str(out)]) == 0
    assert "take the adapter as inputs" in capsys.readouterr().out
    assert main(["merge", str(source), str(tmp_path / "noisy"), "--out", str(out)]) == 1
    assert "exists" in capsys.readouterr().err
