"""Splits: prefix and suffix together compute what the whole graphs compute, and what cannot be split is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import fieldtune_offline.build
from fieldtune.adapters.arrays import from_theta, inference_inputs
from fieldtune.adapters.directory import read_adapter
from fieldtune.bundle.manifest import PREFIX_GRAPH, SUFFIX_GRAPHS
from fieldtune.bundle.node_tables import read_node_table
from fieldtune.bundle.opening import open_bundle
from fieldtune.errors import ParityError, UnsupportedModel
from fieldtune_offline import BuildSpec, MethodSpec, build_bundle

SPLITS = ("split-vision", "split-classifier")


@pytest.fixture(scope="module", params=SPLITS)
def bundle(request, tiny_bundles):
    return open_bundle(tiny_bundles / request.param)


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


@pytest.mark.parametrize("rows", [1, 3, 14])
def test_suffixes_fed_by_the_prefix_compute_what_the_whole_graphs_compute(bundle, rows):
    random = np.random.default_rng(0)
    theta = (0.1 * random.standard_normal(bundle.manifest.layout.size)).astype(np.float32)
    initial = read_adapter(bundle.adapter_path)
    adapter = from_theta(theta, bundle.manifest, initial, bundle.manifest.task.labels, None)
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
