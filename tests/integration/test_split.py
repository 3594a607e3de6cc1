"""Splits: prefix and suffix together compute what the whole graphs compute, and what cannot be split is refused.

With every method of adapting, and so are the steps that are taken on the suffix those of torch and PEFT.
"""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

import fieldtune_offline.build
from fieldtune.adapters.arrays import from_theta, inference_inputs, to_theta
from fieldtune.adapters.directory import read_adapter
from fieldtune.bundle.manifest import PREFIX_GRAPH, SUFFIX_GRAPHS
from fieldtune.bundle.node_tables import read_node_table
from fieldtune.bundle.opening import open_bundle
from fieldtune.compilation.compiling import compile_prefix
from fieldtune.errors import ParityError, UnsupportedModel
from fieldtune.hardware import load_profile
from fieldtune.hardware.installed import features
from fieldtune.runtime.providers import choose_provider
from fieldtune.serving.runner import Runner
from fieldtune.training import AdamWConfig
from fieldtune.training.backends.portable import PortableBackend
from fieldtune_offline import BuildSpec, MethodSpec, build_bundle
from fieldtune_offline.quiet import quiet_loading

SPLITS = ("split-vision", "split-classifier")
TARGET = "kv260"
METHODS = {
    "vision-dora": MethodSpec(name="dora", rank=3, target_modules=("convolution",)),
    "vision-ia3": MethodSpec(name="ia3", target_modules=("convolution",)),
    "classifier-dora": MethodSpec(name="dora", rank=4, target_modules=("query", "value")),
    "classifier-ia3": MethodSpec(
        name="ia3", target_modules=("value", "output.dense"), feedforward_modules=("output.dense",)
    ),
    "classifier-miss": MethodSpec(name="miss", rank=5, target_modules=("query", "value"), bias="MiSS_only"),
}
"""Those of images have a prefix for an accelerator, too."""
STEPS = 5
LEARNING_RATE = 1e-2


@pytest.fixture(scope="module", params=[*SPLITS, *METHODS])
def bundle(request, tiny_bundles, tmp_path_factory):
    if request.param in SPLITS:
        return open_bundle(tiny_bundles / request.param)
    models, out = tiny_bundles / "models", tmp_path_factory.mktemp("split") / "bundle"
    kind, method = request.param.split("-")[0], METHODS[request.param]
    if kind == "vision":
        fields = {"labels": ("dark", "light"), "target": (TARGET,), "calibration": models / "pictures"}
        task, fields = "image-classification", {**fields, "calibration_examples": 24}
    else:
        task, fields = "text-classification", {"labels": ("negative", "positive"), "sequence": 16}
    build_bundle(BuildSpec(model=str(models / kind), task=task, split=1, out=out, method=method, **fields))
    return open_bundle(out)


def sessions(bundle):
    providers = ["CPUExecutionProvider"]
    return {
        name: onnxruntime.InferenceSession(bundle.graph_path(name), providers=providers)
        for name in (PREFIX_GRAPH, *SUFFIX_GRAPHS, *SUFFIX_GRAPHS.values())
    }


def run(session, arrays):
    names = {value.name for value in (*session.get_inputs(), *session.get_overridable_initializers())}
    outputs = [value.name for value in session.get_outputs()]
    return dict(zip(outputs, session.run(outputs, {n: a for n, a in arrays.items() if n in names}), strict=True))


def batch(bundle, rows):
    """Random inputs: the last label does not count, the last text is half padding."""
    random = np.random.default_rng(rows)
    labels = random.integers(0, 2, rows)
    labels[-1] = -100 if rows > 1 else labels[-1]
    if bundle.manifest.image is not None:
        return {"pixel_values": random.standard_normal((rows, 3, 32, 32)).astype(np.float32), "labels": labels}
    mask = np.ones((rows, 16), np.int64)
    mask[-1, 8:] = 0
    return {"input_ids": random.integers(5, 60, (rows, 16)), "attention_mask": mask, "labels": labels}


def noisy(bundle):
    """An adapter far from its initial values, as theta, too."""
    initial = read_adapter(bundle.adapter_path)
    theta = to_theta(initial, bundle.manifest)
    theta += np.random.default_rng(0).normal(0, 0.1, theta.shape).astype(np.float32)
    return theta, from_theta(theta, bundle.manifest, initial, bundle.manifest.task.labels, None)


@pytest.mark.parametrize("rows", [1, 3, 14])
def test_suffixes_fed_by_the_prefix_compute_what_the_whole_graphs_compute(bundle, rows):
    theta, adapter = noisy(bundle)
    arrays = {**batch(bundle, rows), **inference_inputs(adapter, bundle), "theta": theta}
    opened = sessions(bundle)
    boundary = run(opened[PREFIX_GRAPH], arrays)
    assert list(boundary) == [tensor.name for tensor in bundle.manifest.split.boundary]
    for whole, behind in SUFFIX_GRAPHS.items():
        expected = run(opened[whole], arrays)
        found = run(opened[behind], {**arrays, **boundary})
        assert list(found) == list(expected)
        for name, array in expected.items():
            assert np.abs(array).max() > 0
            np.testing.assert_allclose(found[name], array, rtol=0, atol=2e-5 * np.abs(array).max(), err_msg=name)


def test_steps_on_the_suffix_are_those_of_torch_and_peft(bundle, tiny_bundles):
    kind = "vision" if bundle.manifest.image is not None else "classifier"
    kinds = {"vision": AutoModelForImageClassification, "classifier": AutoModelForSequenceClassification}
    settings = {"num_labels": 2, "ignore_mismatched_sizes": True, "attn_implementation": "eager"}
    theta, _ = noisy(bundle)
    with quiet_loading(), torch.no_grad():
        base = kinds[kind].from_pretrained(tiny_bundles / "models" / kind, **settings)
        model = PeftModel.from_pretrained(base, str(bundle.adapter_path), is_trainable=True).eval()
        tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
        for key, values in bundle.manifest.layout.views(theta).items():
            tensors[key].copy_(torch.from_numpy(values))
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0)
    choice = choose_provider(load_profile("cpu-generic"), features().providers)
    prefix = sessions(bundle)[PREFIX_GRAPH]
    backend = PortableBackend(bundle, choice, theta, AdamWConfig(weight_decay=0), 1.0, SUFFIX_GRAPHS)
    wanted = {spec.name for spec in bundle.manifest.graphs[SUFFIX_GRAPHS["gradient"]].inputs}
    expected, found = [], []
    for _ in range(STEPS):
        arrays = batch(bundle, 6)
        loss = model(**{name: torch.from_numpy(array) for name, array in arrays.items()}).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        expected.append(float(loss.detach()))
        fed = {**arrays, **run(prefix, arrays)}
        sums = backend.accumulate({name: array for name, array in fed.items() if name in wanted}, 5)
        backend.update(LEARNING_RATE)
        found.append(sums.loss / sums.weight)
    assert expected[-1] < 0.98 * expected[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_prefix_of_an_accelerator_answers_with_every_method(bundle, monkeypatch, tmp_path):
    if TARGET not in bundle.manifest.targets:
        pytest.skip("the bundle has no prefix for an accelerator")
    monkeypatch.setenv("FIELDTUNE_CACHE", str(tmp_path))
    profile = load_profile(TARGET)
    profile = dataclasses.replace(profile, execution=dataclasses.replace(profile.execution, on_missing="emulate"))
    compile_prefix(bundle, profile)
    pixels = {"pixel_values": batch(bundle, 6)["pixel_values"]}
    found, expected = (
        runner.run(pixels, runner.load_adapter(noisy(bundle)[1], "noisy"))["logits"]
        for runner in (Runner(bundle, profile), Runner(bundle, load_profile("cpu-generic")))
    )
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.1 * np.abs(expected).max())


def test_the_suffix_does_without_the_raw_input_and_the_prefix_without_labels_and_adapter(bundle):
    graphs = bundle.manifest.graphs
    raw = "pixel_values" if bundle.manifest.image is not None else "input_ids"
    assert raw in [tensor.name for tensor in graphs[PREFIX_GRAPH].inputs]
    assert "labels" not in [tensor.name for tensor in graphs[PREFIX_GRAPH].inputs]
    assert not graphs[PREFIX_GRAPH].adapter_inputs
    for whole, behind in SUFFIX_GRAPHS.items():
        names = [tensor.name for tensor in graphs[behind].inputs]
        assert raw not in names
        assert names[0] == "boundary_0"
        assert graphs[behind].adapter_inputs == graphs[whole].adapter_inputs
        model = onnx.load(bundle.graph_path(behind), load_external_data=False)
        onnx.checker.check_model(str(bundle.graph_path(behind)))
        assert [value.name for value in model.graph.input][: len(names)] == names


def test_only_the_last_block_is_adapted_and_all_products_below_it_are_in_the_prefix(bundle):
    modules = bundle.manifest.peft_config["target_modules"]
    assert len(modules) in (2, 3)
    assert all(".layer.1." in name or ".stages.2." in name for name in modules)
    prefix, suffix, whole = (
        read_node_table(bundle.root / bundle.manifest.graphs[name].nodes)
        for name in (PREFIX_GRAPH, SUFFIX_GRAPHS["infer"], "infer")
    )
    products = [sum(bool(node.macs) for node in table.nodes) for table in (prefix, suffix, whole)]
    assert products[0] + products[1] == products[2]
    assert products[0] >= 3


def test_weights_are_in_the_bundle_once(bundle, tiny_bundles):
    whole = open_bundle(tiny_bundles / ("tiny-vision" if bundle.manifest.image else "static-classifier"))
    name = "graphs/weights.safetensors"
    assert bundle.manifest.files[name].size_bytes <= whole.manifest.files[name].size_bytes + 4096


def spec(tiny_models, out, **changes):
    fields = {
        "model": str(tiny_models / "classifier"), "task": "text-classification", "out": out, "labels": ("no", "yes"),
        "sequence": 16, "split": 1, "method": MethodSpec(rank=2, target_modules=("query",)), **changes,
    }  # fmt: skip
    return BuildSpec(**fields)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"sequence": None}, ValueError, "a split of texts needs --sequence"),
        ({"batch": 4}, ValueError, "leave --batch out"),
        ({"split": 0}, ValueError, "at least 1 block"),
        ({"split": 2}, UnsupportedModel, "bert.encoder.layer has 2 blocks; --split 2 would leave none"),
        (
            {"split": "auto", "method": MethodSpec(target_modules=("word_embeddings",))},
            UnsupportedModel,
            "nothing worth",
        ),
        (
            {"method": MethodSpec(target_modules=("bert.encoder.layer.0.output.dense",))},
            UnsupportedModel,
            "none of the",
        ),
        (
            {"method": MethodSpec(target_modules=("query",), bias="all")},
            UnsupportedModel,
            r"below them[^$]* - bert\.emb",
        ),
        (
            {"method": MethodSpec(target_modules=("query",), modules_to_save=("LayerNorm",))},
            UnsupportedModel,
            r"below them[^$]*encoder\.layer\.0\.output\.LayerNorm$",
        ),
        ({"adapter": Path("kitchen")}, ValueError, "says where a new adapter goes, and kitchen has its own .* auto"),
        ({"method": MethodSpec(target_modules=("pooler.dense",))}, UnsupportedModel, "in no numbered blocks"),
    ],
)
def test_what_cannot_be_split_is_refused(tiny_models, tmp_path, changes, kind, words):
    with pytest.raises(kind, match=words):
        build_bundle(spec(tiny_models, tmp_path / "bundle", **changes))
    assert not list(tmp_path.iterdir())


def test_biases_of_the_adapted_layers_are_trained_in_the_last_block_only(tiny_models, tmp_path):
    lora = MethodSpec(rank=2, target_modules=("query",), bias="lora_only")
    layout = build_bundle(spec(tiny_models, tmp_path / "bundle", method=lora)).layout
    assert {parameter.module for parameter in layout.parameters} == {
        "bert.encoder.layer.1.attention.self.query",
        "classifier",
    }
    assert sum(parameter.optional for parameter in layout.parameters) == 1


def test_a_language_model_is_refused_by_name(tiny_models, tmp_path):
    asked = spec(tiny_models, tmp_path / "bundle", model=str(tiny_models / "lm"), task="text-generation", labels=())
    with pytest.raises(UnsupportedModel, match="text-generation cannot be split: decoding"):
        build_bundle(asked)


def test_a_prefix_that_computes_something_else_is_not_written(tiny_models, tmp_path, monkeypatch):
    cut = fieldtune_offline.build.split_prefix

    def wrong(gradient, others):
        split = cut(gradient, others)
        prefix = split.graphs[0]
        last = [node for node in prefix.model.graph if node.op_type == "LayerNormalization"][-1]
        last.attributes.add(type(last.attributes["epsilon"])("epsilon", last.attributes["epsilon"].type, 0.5))
        return split

    monkeypatch.setattr(fieldtune_offline.build, "split_prefix", wrong)
    with pytest.raises(ParityError, match="the split does not compute what the whole does"):
        build_bundle(spec(tiny_models, tmp_path / "bundle"))
    assert not list(tmp_path.iterdir())


def test_auto_cuts_below_the_first_adapted_module(tiny_models, tmp_path):
    lora = MethodSpec(rank=2, target_modules=("layer.1.attention.self.query",))
    manifest = build_bundle(spec(tiny_models, tmp_path / "bundle", split="auto", method=lora))
    assert [tensor.shape for tensor in manifest.split.boundary] == [("batch", 16, 32)]
    assert dataclasses.asdict(open_bundle(tmp_path / "bundle").manifest) == dataclasses.asdict(manifest)
