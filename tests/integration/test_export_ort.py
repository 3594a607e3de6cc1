"""The official training artifacts of a bundle that exists: what is written, what stays, and what a failure leaves."""

import dataclasses
import json
import shutil

import numpy as np
import onnx
import pytest

from fieldtune.adapters.arrays import from_theta, to_theta
from fieldtune.adapters.directory import read_adapter, write_adapter
from fieldtune.adapters.tensors import StoredTensor
from fieldtune.bundle.opening import file_spec, open_bundle
from fieldtune.errors import AdapterMismatch, CheckpointError, ExportError, InvalidBundle, ParityError, UnsupportedModel
from fieldtune.training.backends.ort_checkpoint import read_adamw, read_parameters
from fieldtune_offline.cli import main
from fieldtune_offline.ort_training.export import export_ort_training

FILES = ("training_model.onnx", "eval_model.onnx", "optimizer_model.onnx", "checkpoint", "nominal_checkpoint")


@pytest.fixture
def bundle(tiny_bundles, training_tool, lacks, tmp_path):
    """The function that copies a tiny bundle, with its official artifacts or without them."""
    if not training_tool:
        lacks("training-build", "the environment of ONNX Runtime's training build cannot be made here")

    def copy(name="tiny-classifier", *, plain=False):
        folder = tmp_path / "made" / name
        shutil.copytree(tiny_bundles / name, folder)
        if plain:
            shutil.rmtree(folder / "ort_training")
            edit(folder, _without_artifacts)
        return folder

    return copy


def edit(folder, change):
    data = json.loads((folder / "manifest.json").read_text())
    change(data)
    (folder / "manifest.json").write_text(json.dumps(data))


def _without_artifacts(data):
    data["ort_training"] = None
    data["files"] = {name: spec for name, spec in data["files"].items() if not name.startswith("ort_training/")}


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def perturbed(folder, seed=9):
    manifest = open_bundle(folder).manifest
    theta = to_theta(read_adapter(folder / "adapter"), manifest)
    return theta + np.random.default_rng(seed).normal(0, 0.1, theta.shape).astype(np.float32)


def insert_operator(folder, operator):
    """Put an operator between the logits and what eval.onnx makes of them, and bring the digest up to date."""
    path = folder / "graphs" / "eval.onnx"
    model = onnx.load(path, load_external_data=False)
    place, producer = next((n, node) for n, node in enumerate(model.graph.node) if "logits" in node.output)
    producer.output[list(producer.output).index("logits")] = "logits.before"
    model.graph.node.insert(place + 1, onnx.helper.make_node(operator, ["logits.before"], ["logits"], name="inserted"))
    onnx.save(model, path)
    edit(folder, lambda data: data["files"].update({"graphs/eval.onnx": dataclasses.asdict(file_spec(path))}))


@pytest.mark.parametrize("name", ["tiny-classifier", "static-classifier", "tiny-lm"])
def test_an_export_adds_five_files_and_changes_no_other(name, bundle):
    folder = bundle(name, plain=True)
    before, manifest = contents(folder), open_bundle(folder).manifest
    assert manifest.ort_training is None
    stages = []
    returned = export_ort_training(folder, report=stages.append)
    opened = open_bundle(folder)
    assert opened.manifest == returned
    after = contents(folder)
    assert set(after) - set(before) == {f"ort_training/{name}" for name in FILES}
    assert all(after[path] == content for path, content in before.items() if path != "manifest.json")
    section = returned.ort_training
    assert section.runtime == "1.19.2"
    assert section.paths == tuple(f"ort_training/{name}" for name in FILES)
    for path in section.paths:
        assert returned.files[path] == file_spec(folder / path)
    assert dataclasses.replace(returned, files=manifest.files, ort_training=None) == manifest
    assert [(record.batch, record.sequence) for record in section.parity] == (
        [(4, 16)] if name == "static-classifier" else [(3, 17), (2, 34)]
    )
    for record in section.parity:
        assert record.loss_relative <= 1e-6
        assert record.gradient_relative <= 1e-5
    initial = to_theta(read_adapter(opened.adapter_path), returned)
    np.testing.assert_array_equal(read_parameters(folder / section.checkpoint, returned.layout), initial)
    assert stages == ["making the official training artifacts", "comparing them with gradient.onnx"]


def test_the_artifacts_are_valid_graphs_of_one_ir_version(bundle):
    folder = bundle()
    layout = open_bundle(folder).manifest.layout
    for name in FILES[:3]:
        model = onnx.load(folder / "ort_training" / name)
        assert model.ir_version == 8
    training = onnx.load(folder / "ort_training" / "training_model.onnx")
    gradients = {value.name.removesuffix("_grad.accumulation.buffer") for value in training.graph.input}
    assert {parameter.key for parameter in layout.parameters} <= gradients
    operators = {node.op_type for node in training.graph.node}
    assert "InPlaceAccumulatorV2" in operators
    assert not {"Dropout", "RandomNormal", "RandomUniform"} & operators
    (adamw,) = onnx.load(folder / "ort_training" / "optimizer_model.onnx").graph.node
    settings = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in adamw.attribute}
    assert settings["adam_mode"] == 0
    assert settings["weight_decay"] == 0
    assert settings["epsilon"] == pytest.approx(1e-8)
    assert (settings["alpha"], settings["beta"]) == (pytest.approx(0.9), pytest.approx(0.999))


def test_a_second_export_replaces_the_first(bundle):
    folder = bundle()
    before = contents(folder)
    (folder / "ort_training" / "stray.onnx").write_bytes(b"of an earlier export")
    edit(folder, lambda data: data["ort_training"].update(runtime="1.0"))
    again = export_ort_training(folder)
    assert again.ort_training.runtime == "1.19.2"
    assert set(contents(folder)) == set(before)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert open_bundle(folder).manifest == again


def test_a_checkpoint_holds_another_adapters_values(bundle, tmp_path, capsys):
    folder = bundle()
    before, manifest = contents(folder), open_bundle(folder).manifest
    theta = perturbed(folder)
    like = read_adapter(folder / "adapter")
    write_adapter(from_theta(theta, manifest, like, manifest.task.labels, None), tmp_path / "adapter")
    assert main(["export-ort", str(folder), "--adapter", str(tmp_path / "adapter"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["bundle"] == str(folder)
    assert [record["sequence"] for record in shown["ort_training"]["parity"]] == [17, 34]
    found = read_parameters(folder / "ort_training" / "checkpoint", manifest.layout)
    np.testing.assert_array_equal(found, theta)
    # The bundle's own adapter stays what it was.
    assert contents(folder)["adapter/adapter_model.safetensors"] == before["adapter/adapter_model.safetensors"]


def test_the_command_shows_the_figures_of_parity(bundle, capsys):
    folder = bundle("tiny-lm", plain=True)
    assert main(["export-ort", str(folder)]) == 0
    shown = capsys.readouterr()
    assert "ort_training (ONNX Runtime 1.19.2): largest differences from gradient.onnx" in shown.out
    assert "2, 34" in shown.out
    assert f"written: {folder / 'ort_training'}" in shown.err
    assert main(["parity", str(folder), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["ort_training_parity"]
    assert all(0 <= record["gradient_relative"] <= 1e-5 for record in figures)


def test_a_fresh_checkpoint_holds_no_optimizer_and_a_nominal_one_no_values(bundle):
    folder = bundle()
    layout = open_bundle(folder).manifest.layout
    with pytest.raises(CheckpointError, match="0 optimizer groups"):
        read_adamw(folder / "ort_training" / "checkpoint", layout)
    with pytest.raises(CheckpointError, match="holds the names of parameters and no values"):
        read_parameters(folder / "ort_training" / "nominal_checkpoint", layout)


def fails(folder, error, match, **arguments):
    """Export, which fails: the bundle is as it was, and nothing lies beside it."""
    before = contents(folder)
    with pytest.raises(error, match=match) as caught:
        export_ort_training(folder, **arguments)
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    open_bundle(folder)
    return str(caught.value)


@pytest.mark.parametrize("plain", [False, True], ids=["again", "first"])
@pytest.mark.parametrize("stage", ["making the official", "comparing them"])
def test_an_interrupted_export_leaves_the_bundle_as_it_was(stage, plain, bundle):
    def interrupt(line):
        if line.startswith(stage):
            raise KeyboardInterrupt

    fails(bundle(plain=plain), KeyboardInterrupt, None, report=interrupt)


@pytest.mark.parametrize("operator", ["Round", "Atan"])
def test_an_operator_without_a_gradient_is_refused_by_name(operator, bundle):
    folder = bundle(plain=True)
    insert_operator(folder, operator)
    message = fails(folder, UnsupportedModel, rf"no gradient of the operator {operator} \(node inserted\)")
    assert "nothing was written" in message
    assert "portable backend" in message
    assert "\n" not in message


def test_artifacts_that_compute_something_else_are_not_written(bundle):
    folder = bundle(plain=True)
    insert_operator(folder, "Tanh")
    message = fails(folder, ParityError, "do not compute what gradient.onnx computes; nothing was written")
    assert "batch 3, sequence 17: loss is" in message


def test_a_graph_that_cannot_be_differentiated_for_another_reason_says_so(bundle):
    folder = bundle(plain=True)
    # Trained parameters that reach no loss: their gradient has nowhere to come from.
    path = folder / "graphs" / "eval.onnx"
    model = onnx.load(path, load_external_data=False)
    (producer,) = (node for node in model.graph.node if "loss_sum" in node.output)
    producer.output[list(producer.output).index("loss_sum")] = "loss_sum.before"
    model.graph.node.append(
        onnx.helper.make_node("Constant", [], ["loss_sum"], value_float=1.0, name="inserted"),
    )
    onnx.save(model, path)
    edit(folder, lambda data: data["files"].update({"graphs/eval.onnx": dataclasses.asdict(file_spec(path))}))
    message = fails(folder, ExportError, "ONNX Runtime 1.19.2 cannot make the official artifacts")
    assert "nothing was written" in message


def test_an_adapter_of_another_rank_is_refused(bundle, tmp_path):
    folder = bundle()
    like = read_adapter(folder / "adapter")
    halved = {}
    for key, stored in like.tensors.tensors.items():
        values = stored.float32()
        values = values[:2] if "lora_A" in key else values[:, :2] if "lora_B" in key else values
        halved[key] = StoredTensor.from_float32(np.ascontiguousarray(values), "F32")
    tensors = dataclasses.replace(like.tensors, tensors=halved)
    write_adapter(dataclasses.replace(like, config={**like.config, "r": 2}, tensors=tensors), tmp_path / "adapter")
    fails(folder, AdapterMismatch, "only at the bundle's own rank, 4", adapter=tmp_path / "adapter")


def test_a_folder_that_is_no_bundle_is_refused(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InvalidBundle, match=r"not a bundle \(no manifest.json in it\)"):
        export_ort_training(tmp_path)
    assert main(["export-ort", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_no_fitting_python_is_an_error_before_anything_is_made(bundle, monkeypatch, tmp_path):
    folder = bundle(plain=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "none"))
    fails(folder, ExportError, r"ort-training needs Python 3\.11 or 3\.12.*found none; install one of them")
