"""Methods of adapting, each on models of every kind: graphs, training and serving compute what PEFT computes.

An adapter that the device trained is loaded by PEFT, and one that PEFT trained is served by the device: the same
logits.
"""

import json
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

from fieldtune.adapters.arrays import inference_inputs, to_theta
from fieldtune.adapters.directory import read_adapter
from fieldtune.adapters.methods.table import all_methods
from fieldtune.bundle.opening import open_bundle
from fieldtune.cli import main as fieldtune
from fieldtune.errors import AdapterMismatch, InvalidAdapter, UnsupportedModel
from fieldtune_offline import BuildSpec, MethodSpec, build_bundle
from fieldtune_offline.cli import main as fieldtune_offline
from fieldtune_offline.merge import merge_adapter
from fieldtune_offline.methods.interface import Method
from fieldtune_offline.methods.peft_config import new_config
from fieldtune_offline.methods.table import method_named
from fieldtune_offline.ort_training.export import export_ort_training
from fieldtune_offline.quiet import quiet_loading
from fieldtune_offline.spec import MergeSpec
from fieldtune_offline.tasks.table import task_class

pytestmark = [
    pytest.mark.slow,
    # transformers 5.25 and later say it of the caches that every language model is traced with.
    pytest.mark.filterwarnings("ignore:.*past_key_values. is deprecated:FutureWarning"),
]

TASKS = {"classifier": "text-classification", "vision": "image-classification"}
LABELS = ("bad", "good")
CLASSES = {"classifier": AutoModelForSequenceClassification, "vision": AutoModelForImageClassification}
TOLERANCE = 1e-5
"""Of the largest element."""

# Model, settings of the build, and other settings that an adapter of the same bundle may have.
CASES = {
    "dora-linear": ("classifier", {"name": "dora", "target_modules": ("query", "dense"), "bias": "lora_only"},
                    {"rank": 5}),
    "dora-tied": ("lm", {"name": "dora", "rank": 4, "target_modules": ("lm_head", "q_proj")}, {"rslora": True}),
    "dora-embedding": ("lm", {"name": "dora", "target_modules": ("embed_tokens", "down_proj")}, {"alpha": 3}),
    "dora-conv1d": ("gpt2", {"name": "dora", "target_modules": ("c_attn", "c_proj")}, {"rank": 2, "alpha": 3}),
    "dora-convolutions": ("vision", {"name": "dora", "target_modules": ("convolution",)}, {"rank": 3}),
    "ia3-linear": ("classifier", {"name": "ia3", "target_modules": ("query", "dense"),
                                  "feedforward_modules": ("dense",)}, {}),
    "ia3-default": ("classifier", {"name": "ia3"}, {}),
    "ia3-tied": ("lm", {"name": "ia3", "target_modules": ("lm_head", "k_proj")}, {}),
    "ia3-conv1d": ("gpt2", {"name": "ia3", "target_modules": ("c_attn", "c_fc"), "feedforward_modules": ("c_fc",)}, {}),
    "ia3-convolutions": ("vision", {"name": "ia3", "target_modules": ("convolution",)}, {}),
    # 5 does not divide the 32 inputs; one adapter's rank is smaller, the other's larger than the bundle's.
    "miss-linear": ("classifier", {"name": "miss", "rank": 5, "target_modules": ("query", "dense"),
                                   "bias": "MiSS_only"}, {"rank": 3}),
    "miss-tied": ("lm", {"name": "miss", "rank": 4, "target_modules": ("lm_head", "q_proj")}, {"rank": 9}),
}  # fmt: skip
FIRST = {
    name: next(case for case, (_, settings, _) in CASES.items() if settings["name"] == name)
    for name in ("dora", "ia3", "miss")
}


@pytest.fixture(scope="module")
def built(tiny, tiny_models, tmp_path_factory):
    """The function from a case to the folders of its model and its bundle."""
    made = {}

    def build(case):
        if case not in made:
            kind, settings, _ = CASES[case]
            root = tmp_path_factory.mktemp(case)
            folder = _model(tiny, tiny_models, kind, root)
            spec = BuildSpec(model=str(folder), task=TASKS.get(kind, "text-generation"), out=root / "bundle",
                             labels=LABELS if kind in TASKS else (), method=MethodSpec(**settings))  # fmt: skip
            build_bundle(spec)
            made[case] = folder, root / "bundle"
        return made[case]

    return build


def _model(tiny, tiny_models, kind, root):
    folder = tiny_models / kind
    if kind == "vision" and not folder.exists():
        tiny.vision(folder)
    if kind == "gpt2":
        folder = root / "gpt2"
        shutil.copytree(tiny_models / "lm", folder)
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=262, n_embd=32, n_layer=1, n_head=4, n_positions=64, initializer_range=0.2,
                            bos_token_id=1, eos_token_id=2)  # fmt: skip
        with quiet_loading():
            GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def _base(case, folder):
    kind = CASES[case][0]
    torch.manual_seed(0)
    settings = {"num_labels": len(LABELS), "ignore_mismatched_sizes": True} if kind in TASKS else {}
    with quiet_loading():
        return CLASSES.get(kind, AutoModelForCausalLM).from_pretrained(folder, attn_implementation="eager", **settings)


def _adapter_of_peft(case, folder, out):
    """Save an adapter as PEFT could have trained it, with other settings than the bundle's; return its model."""
    _, settings, others = CASES[case]
    spec = MethodSpec(**{**settings, **others})
    task = TASKS.get(CASES[case][0], "text-generation")
    saved = ("classifier",) if CASES[case][0] == "classifier" else ()
    config = new_config(method_named(spec.name), spec, task_class(task), saved)
    with quiet_loading(), torch.no_grad():
        model = get_peft_model(_base(case, folder), config).eval()
        generator = torch.Generator().manual_seed(3)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        model.save_pretrained(out, save_embedding_layers=False)
    return model


def _logits_of_peft(case, model):
    with torch.no_grad():
        if CASES[case][0] == "vision":
            return model(pixel_values=torch.from_numpy(_pixels())).logits.numpy()
        ids = torch.from_numpy(_ids())
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.numpy()


def _logits_of_device(bundle, adapter):
    manifest = bundle.manifest
    feeds = (
        {"pixel_values": _pixels()}
        if manifest.image
        else {"input_ids": _ids(), "attention_mask": np.ones((3, 12), np.int64)}
    )
    for spec in manifest.graphs["infer"].inputs:
        if spec.name == "position_ids":
            feeds[spec.name] = np.tile(np.arange(12), (3, 1))
        if spec.name.startswith("past"):
            feeds[spec.name] = np.zeros((3, spec.shape[1], 0, spec.shape[3]), np.float32)
    session = onnxruntime.InferenceSession(str(bundle.graph_path("infer")), providers=["CPUExecutionProvider"])
    fed = {} if adapter is None else inference_inputs(adapter, bundle)
    return session.run(["logits"], {**feeds, **fed})[0]


def _ids():
    return np.random.default_rng(1).integers(3, 100, (3, 12))


def _pixels():
    return np.random.default_rng(1).normal(0, 1, (3, 3, 32, 32)).astype(np.float32)


def _close(found, expected):
    largest = np.abs(expected).max()
    assert largest > 0.01
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * largest)


@pytest.mark.parametrize("case", CASES)
def test_a_bundle_computes_what_peft_computes(built, case):
    _, folder = built(case)
    manifest = open_bundle(folder).manifest
    assert manifest.method == CASES[case][1]["name"]
    for record in manifest.parity:
        assert record.loss_relative <= 1e-5
        assert record.gradient_relative <= 1e-4
        assert record.inference_relative <= 1e-4


@pytest.mark.parametrize("case", [case for case, (_, settings, _) in CASES.items() if settings["name"] == "dora"])
def test_new_magnitudes_are_those_of_peft(built, case):
    folder, bundle = built(case)
    kind, settings, _ = CASES[case]
    config = new_config(
        method_named("dora"), MethodSpec(**settings), task_class(TASKS.get(kind, "text-generation")), ()
    )
    with quiet_loading():
        model = get_peft_model(_base(case, folder), config)
    expected = {f"{name.removesuffix('.default.weight')}": value.detach() for name, value in model.named_parameters()
                if "lora_magnitude_vector" in name}  # fmt: skip
    stored = read_adapter(bundle / "adapter").tensors.tensors
    found = {name: torch.from_numpy(stored[name].float32()) for name in stored if "lora_magnitude_vector" in name}
    assert found.keys() == expected.keys()
    assert len(found) > 0
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=0)


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_of_peft_is_served(built, tmp_path, case):
    folder, bundle = built(case)
    model = _adapter_of_peft(case, folder, tmp_path / "theirs")
    opened = open_bundle(bundle)
    found = _logits_of_device(opened, read_adapter(tmp_path / "theirs"))
    _close(found, _logits_of_peft(case, model))
    plain = _logits_of_device(opened, None)
    assert np.abs(found - plain).max() > 0.01


@pytest.mark.parametrize("case", CASES)
def test_without_an_adapter_the_base_answers(built, case):
    folder, bundle = built(case)
    base = _base(case, folder)
    if CASES[case][0] in TASKS:  # its head is the bundle's
        with quiet_loading():
            base = PeftModel.from_pretrained(base, str(bundle / "adapter"))
    _close(_logits_of_device(open_bundle(bundle), None), _logits_of_peft(case, base.eval()))


def _rows(kind, folder):
    if kind == "vision":
        rows = []
        for number in range(12):
            np.save(folder / f"{number}.npy", np.full((32, 32, 3), 20 * number, np.uint8))
            rows.append({"image": f"{number}.npy", "label": LABELS[number // 6]})
        return rows
    if kind in TASKS:
        return [
            {"text": text, "label": label} for label, text in zip(LABELS, ("poor plot", "great cast"), strict=True)
        ] * 8
    return [
        {"prompt": "my cable?", "completion": "fix the cable."},
        {"prompt": "my screen?", "completion": "check it."},
    ] * 4


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_that_the_device_trained_goes_to_peft_and_back(built, tmp_path, case):
    folder, bundle = built(case)
    rows = _rows(CASES[case][0], tmp_path)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ("--out", str(tmp_path / "ours"), "--epochs", "3", "--batch-size", "4", "--learning-rate", "0.01")
    assert (
        fieldtune(
            ["train", str(bundle), "--data", str(tmp_path / "rows.jsonl"), *flags, "--gradient-accumulation", "1"]
        )
        == 0
    )
    opened, trained = open_bundle(bundle), read_adapter(tmp_path / "ours")
    title = next(method.title for method in all_methods() if method.name == opened.manifest.method)
    assert f"# {title} adapter for" in (tmp_path / "ours" / "README.md").read_text()
    assert title in (tmp_path / "ours" / "report.html").read_text()
    steps = trained.card.training["steps"]
    assert steps >= 6
    before, after = to_theta(read_adapter(opened.adapter_path), opened.manifest), to_theta(trained, opened.manifest)
    moved = {key: np.abs(view).max() for key, view in opened.manifest.layout.views(after - before).items()}
    assert sum(size > 0 for size in moved.values()) > len(moved) / 2
    with quiet_loading():
        model = PeftModel.from_pretrained(_base(case, folder), str(tmp_path / "ours")).eval()
    expected, found = _logits_of_peft(case, model), _logits_of_device(opened, trained)
    # Of an output without weights, the padding token's logit, PEFT divides 0 by 0; here it stays what it was.
    known = np.isfinite(expected)
    assert np.isfinite(found).all()
    assert known.mean() > 0.99
    _close(found[known], expected[known])
    with quiet_loading():
        model.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    np.testing.assert_array_equal(to_theta(read_adapter(tmp_path / "theirs"), opened.manifest), after)


@pytest.mark.parametrize("name", FIRST)
def test_training_loses_less_with_every_epoch(built, tmp_path, name):
    _, bundle = built(FIRST[name])
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _rows("classifier", tmp_path)))
    rows = str(tmp_path / "rows.jsonl")
    flags = ("--out", str(tmp_path / "ours"), "--epochs", "8", "--batch-size", "4", "--learning-rate", "0.01")
    assert (
        fieldtune(["train", str(bundle), "--data", rows, *flags, "--gradient-accumulation", "1", "--eval", rows]) == 0
    )
    report = json.loads((tmp_path / "ours" / "train_report.json").read_text())
    losses = [record["evaluation"]["loss"] for record in report["evaluations"]]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", FIRST)
def test_an_adapter_of_another_method_is_a_mismatch_among_others(built, tiny_bundles, name):
    _, bundle = built(FIRST[name])
    other = read_adapter(tiny_bundles / "tiny-classifier" / "adapter")
    title = next(method.title for method in all_methods() if method.name == name)
    with pytest.raises(AdapterMismatch, match=f"an adapter of LoRA; the bundle was built for {title}") as caught:
        inference_inputs(other, open_bundle(bundle))
    assert str(caught.value).count("\n") > 1
    with pytest.raises(AdapterMismatch, match=f"an adapter of {title}; the bundle was built for LoRA") as caught:
        inference_inputs(read_adapter(bundle / "adapter"), open_bundle(tiny_bundles / "tiny-classifier"))
    assert str(caught.value).count("\n") > 1


@pytest.mark.parametrize("name", FIRST)
def test_a_bundle_continues_an_adapter(built, tmp_path, name):
    folder, _ = built(FIRST[name])
    _adapter_of_peft(FIRST[name], folder, tmp_path / "theirs")
    spec = BuildSpec(model=str(folder), task="text-classification", labels=LABELS, out=tmp_path / "bundle",
                     adapter=tmp_path / "theirs")  # fmt: skip
    manifest = build_bundle(spec)
    assert manifest.method == name
    given = to_theta(read_adapter(tmp_path / "theirs"), manifest)
    np.testing.assert_array_equal(given, to_theta(read_adapter(tmp_path / "bundle" / "adapter"), manifest))
    assert max(record.gradient_relative for record in manifest.parity) <= 1e-4


@pytest.mark.parametrize("name", FIRST)
def test_inspect_says_the_method(built, capsys, name):
    _, bundle = built(FIRST[name])
    title = next(method.title for method in all_methods() if method.name == name)
    for path in (bundle, bundle / "adapter"):
        assert fieldtune(["inspect", str(path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["method"] == name
        assert fieldtune(["inspect", str(path)]) == 0
        assert title in capsys.readouterr().out


def test_a_method_without_a_fold_is_not_merged(built, tmp_path, monkeypatch):
    _, bundle = built(FIRST["ia3"])
    monkeypatch.setattr(type(method_named("ia3")), "fold", Method.fold)
    with pytest.raises(UnsupportedModel, match=r"bundle: adapts by IA³, whose adapters cannot be folded"):
        merge_adapter(MergeSpec(bundle=bundle, adapter=bundle / "adapter", out=tmp_path / "merged"))
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("name", ["dora", "miss"])
def test_a_method_without_official_artifacts(built, tmp_path, capsys, name):
    folder, bundle = built(FIRST[name])
    assert fieldtune_offline(["export-ort", str(bundle)]) == 1
    title = next(method.title for method in all_methods() if method.name == name)
    said = " ".join(capsys.readouterr().err.split())
    assert (
        f"the official training artifacts cannot be made for {title}, whose adapters eval.onnx takes in another" in said
    )
    assert "train it with the portable backend" in said
    assert "build with a method that has them (lora, ia3)" in said
    flags = ("--task", "text-classification", "--out", str(tmp_path / "out"), "--ort-training", "--method", name)
    assert fieldtune_offline(["build", str(folder), *flags]) == 1
    assert title in capsys.readouterr().err


@pytest.mark.parametrize("name", ["dora", "miss"])
def test_training_takes_the_bundles_own_rank_only(built, tmp_path, name):
    folder, bundle = built(FIRST[name])
    _adapter_of_peft(FIRST[name], folder, tmp_path / "theirs")
    with pytest.raises(AdapterMismatch, match=r"rank \d in .*; training continues only at the bundle's own rank, \d: "):
        to_theta(read_adapter(tmp_path / "theirs"), open_bundle(bundle).manifest)


def test_a_rank_that_the_settings_do_not_say(built, tmp_path):
    _, bundle = built("miss-linear")
    shutil.copytree(bundle / "adapter", tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "r": 7}))
    with pytest.raises(AdapterMismatch, match=r"query\.miss_block: rank 5; adapter_config.json says 7"):
        inference_inputs(read_adapter(tmp_path / "adapter"), open_bundle(bundle))


@pytest.mark.parametrize("case", ["ia3-linear"])
def test_official_artifacts_compute_the_same(built, training_tool, case):
    if not training_tool:
        pytest.skip("the tool for the official training artifacts cannot be installed here")
    _, bundle = built(case)
    for record in export_ort_training(bundle).ort_training.parity:
        assert record.gradient_relative <= 2e-4


def test_a_split_narrows_feedforward_modules_too(tiny_models, tmp_path):
    method = MethodSpec(name="ia3", target_modules=("query", "dense"), feedforward_modules=("dense",))
    manifest = build_bundle(
        BuildSpec(model=str(tiny_models / "classifier"), task="text-classification", labels=LABELS, sequence=16,
                  split=1, out=tmp_path / "bundle", method=method)
    )  # fmt: skip
    own = [p for p in manifest.layout.parameters if p.replaces is None]
    assert {p.axes for p in own if p.module.endswith("query")} == {("out_features", "one")}
    assert {p.axes for p in own if p.module.endswith("dense")} == {("one", "in_features")}
    assert not [p.module for p in own if "layer.0" in p.module]
    assert not any(p.decay for p in own)


@pytest.mark.parametrize(
    ("settings", "config", "message"),
    [
        ({"name": "dora"}, {"lora_bias": True, "target_modules": ["query"]}, "lora_bias"),
        ({"name": "dora"}, {"lora_dropout": 0.1, "target_modules": ["query"]}, r"lora_dropout=0\.1: dropout"),
        (
            {"name": "ia3"},
            {"target_modules": ["word_embeddings"]},
            "PEFT refuses the adapter: .*Embedding",
        ),
        (
            {"name": "miss"},
            {"target_modules": ["query"], "init_weights": "bat"},
            "init_weights='bat': the update depends",
        ),
        ({"name": "miss"}, {"target_modules": ["query"], "miss_dropout": 0.5}, r"miss_dropout=0\.5: dropout"),
        ({"name": "miss"}, {"target_modules": ["word_embeddings"]}, "PEFT refuses the adapter: .*Embedding"),
        ({"name": "miss", "alpha": 3}, {}, "--alpha: MiSS has no such setting"),
        ({"name": "ia3"}, {"r": 3}, r"IA3Config has no field 'r'"),
        ({"name": "ia3", "rank": 3, "bias": "all"}, {}, "--rank, --bias: IA³ has no such setting"),
        ({"name": "ia3"}, {"peft_type": "LORA"}, "--method ia3, and .*peft.json is of LoRA: leave --method out"),
    ],
)
def test_settings_that_are_refused(tiny_models, tmp_path, settings, config, message):
    (tmp_path / "peft.json").write_text(json.dumps(config))
    method = MethodSpec(peft_config=tmp_path / "peft.json", **settings)
    with pytest.raises((UnsupportedModel, ValueError), match=message):
        build_bundle(BuildSpec(model=str(tiny_models / "classifier"), task="text-classification", labels=LABELS,
                               out=tmp_path / "bundle", method=method))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("dora", {"use_qalora": True, "init_lora_weights": "pissa"}, "(?s)use_qalora: .*init_lora_weights 'pissa'"),
        ("miss", {"init_weights": "bat"}, "init_weights 'bat': the update depends on the base weight"),
        ("miss", {"init_weights": "mini"}, "init_weights 'mini': the matrix is stored once"),
    ],
)
def test_settings_that_the_device_refuses(built, tmp_path, name, config, message):
    _, bundle = built(FIRST[name])
    shutil.copytree(bundle / "adapter", tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    with pytest.raises(InvalidAdapter, match=message):
        read_adapter(tmp_path / "adapter")
