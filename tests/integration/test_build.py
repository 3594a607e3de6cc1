"""What a build promises: whole bundles or nothing, weights once, the format's versions, sums that add up."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors import safe_open

from fieldtune.bundle import open_bundle
from fieldtune.errors import OutputError, ParityError, UnsupportedModel
from fieldtune_offline import BuildSpec, LoraSpec, build_bundle, parity

LORA = LoraSpec(rank=4, alpha=8, target_modules=("query", "value"))


def _spec(models, out, **changes):
    settings = {"task": "text-classification", "labels": ("negative", "positive"), "lora": LORA, **changes}
    return BuildSpec(model=str(models / "classifier"), out=out, **settings)


@pytest.fixture(scope="module")
def bundle(tiny_models, tmp_path_factory):
    out = tmp_path_factory.mktemp("build") / "bundle"
    build_bundle(_spec(tiny_models, out))
    return open_bundle(out)


def _theta(bundle):
    rng = np.random.Generator(np.random.PCG64(1))
    return rng.normal(0, 0.05, bundle.manifest.layout.size).astype(np.float32)


def _batch():
    rng = np.random.Generator(np.random.PCG64(2))
    ids = rng.integers(5, 60, (4, 12))
    mask = np.ones_like(ids)
    mask[1, 8:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": np.array([0, 1, 1, 0])}


def _gradient(bundle):
    return onnxruntime.InferenceSession(str(bundle.graph_path("gradient")), providers=["CPUExecutionProvider"])


def test_weights_are_stored_once_under_the_names_of_the_checkpoint(bundle, tiny_models):
    folder = bundle.root / "graphs"
    with (
        safe_open(folder / "weights.safetensors", "np") as stored,
        safe_open(tiny_models / "classifier" / "model.safetensors", "np") as checkpoint,
    ):
        kept = set(stored.keys())
        for name in checkpoint.keys():  # noqa: SIM118 - safe_open is no mapping
            np.testing.assert_array_equal(stored.get_tensor(f"bert.{name}"), checkpoint.get_tensor(name))
    for path in folder.glob("*.onnx"):
        model = onnx.load(path, load_external_data=False)
        external = [tensor for tensor in model.graph.initializer if tensor.external_data]
        assert {tensor.name for tensor in external} <= kept
        assert {entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"} == {
            "weights.safetensors"
        }
        inline = [tensor for tensor in model.graph.initializer if not tensor.external_data]
        assert max(len(tensor.raw_data) for tensor in inline) < 4096


def test_graphs_are_opset_18_in_ir_version_8(bundle):
    for name, spec in bundle.manifest.graphs.items():
        path = bundle.graph_path(name)
        onnx.checker.check_model(str(path))
        model = onnx.load(path, load_external_data=False)
        assert (model.ir_version, [(entry.domain, entry.version) for entry in model.opset_import]) == (8, [("", 18)])
        assert [value.name for value in model.graph.input] == [
            tensor.name for tensor in (*spec.inputs, *spec.adapter_inputs)
        ]
        table = json.loads((bundle.root / spec.nodes).read_text())
        assert [node["op"] for node in table["nodes"]] == [node.op_type for node in model.graph.node]


def test_no_weight_is_transposed(bundle):
    for name in bundle.manifest.graphs:
        model = onnx.load(bundle.graph_path(name), load_external_data=False)
        weights = {tensor.name for tensor in model.graph.initializer if tensor.external_data}
        transposed = [node for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in weights]
        assert transposed == []
        assert any(node.op_type == "Gemm" and node.input[1] in weights for node in model.graph.node)


def test_sums_of_single_rows_are_the_sums_of_the_batch(bundle):
    session, theta, batch = _gradient(bundle), _theta(bundle), _batch()
    names = ["loss_sum", "weight", "grad_sum"]
    whole = session.run(names, {**batch, "theta": theta})
    rows = [session.run(names, {**{k: v[i : i + 1] for k, v in batch.items()}, "theta": theta}) for i in range(4)]
    assert whole[1] == 4
    np.testing.assert_allclose(sum(row[0] for row in rows), whole[0], rtol=1e-5)
    np.testing.assert_allclose(sum(row[2] for row in rows), whole[2], atol=1e-5 * np.abs(whole[2]).max())


def test_a_batch_without_labels_sums_to_zero(bundle):
    batch = {**_batch(), "labels": np.full(4, -100)}
    loss, weight, gradient = _gradient(bundle).run(None, {**batch, "theta": _theta(bundle)})
    assert (float(loss), float(weight)) == (0.0, 0.0)
    assert not gradient.any()


def test_two_builds_are_the_same(bundle, tiny_models, tmp_path):
    manifest = build_bundle(_spec(tiny_models, tmp_path / "again"))
    assert manifest.files == bundle.manifest.files


def test_a_build_that_differs_from_torch_leaves_nothing(tiny_models, tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "GRADIENT_TOLERANCE", 0.0)
    with pytest.raises(ParityError, match="the gradient of base_model"):
        build_bundle(_spec(tiny_models, tmp_path / "bundle"))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused_before_any_work(tiny_models, tmp_path):
    out = tmp_path / "bundle"
    out.mkdir()
    with pytest.raises(OutputError, match="exists; choose another folder or add --overwrite"):
        build_bundle(_spec(tiny_models, out))


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("text-classifcation", "is unknown; supported: text-classification, text-generation"),
        ("image-classification", "is known, but not supported; supported: text-classification, text-generation"),
    ],
)
def test_a_task_that_is_not_supported_is_named(tiny_models, tmp_path, task, says):
    with pytest.raises(UnsupportedModel, match=says):
        build_bundle(_spec(tiny_models, tmp_path / "bundle", task=task))


def test_a_folder_that_is_no_model_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    spec = BuildSpec(model=str(tmp_path), task="text-generation", out=tmp_path / "bundle")
    with pytest.raises(UnsupportedModel, match=r"no config.json in it \(found: .*notes.txt"):
        build_bundle(spec)
