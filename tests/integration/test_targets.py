"""A target added to a real split bundle: its graph, its node table, its stored run, and what the bundle says of it."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

pytest.importorskip("torch")

import onnx
import onnx_ir as ir
from safetensors.numpy import load_file

from fieldtune.adapters.arrays import from_theta, inference_inputs, to_theta
from fieldtune.adapters.directory import read_adapter, write_adapter
from fieldtune.bundle.manifest_reading import read_manifest
from fieldtune.bundle.node_tables import read_node_table
from fieldtune.bundle.opening import open_bundle
from fieldtune.compilation.stored_reference import read_reference
from fieldtune.data.examples import Encoded, EncodedSet
from fieldtune.data.images import encoded_image
from fieldtune.errors import ExportError, InvalidData, PlacementRefused
from fieldtune.hardware import load_profile
from fieldtune.placement.plan import plan_placement
from fieldtune.placement.rules import check_rules
from fieldtune.tasks import open_task
from fieldtune_offline import BuildSpec, MethodSpec, build_bundle
from fieldtune_offline.accelerators.accuracy import measure_accuracy, open_prefixes
from fieldtune_offline.accelerators.calibration_data import Calibration, read_calibration
from fieldtune_offline.accelerators.int8 import planned_table
from fieldtune_offline.accelerators.int8.running import open_model
from fieldtune_offline.accelerators.prefixes import add_target, add_targets, load_targets
from fieldtune_offline.cli import main as offline
from fieldtune_offline.cli.build import target_table
from fieldtune_offline.spec import PrecisionSpec


def examples(bundle, count, *, labelled=True):
    draw = np.random.default_rng(0)
    manifest = bundle.manifest
    labels = [index % 2 if labelled else None for index in range(count)]
    if manifest.image is None:
        rows = [draw.integers(5, 40, draw.integers(3, 15)).astype(np.int64) for _ in labels]
        encoded = tuple(encoded_text(row, label) for row, label in zip(rows, labels, strict=True))
    else:
        shape = (manifest.image.channels, manifest.image.height, manifest.image.width)
        pixels = [(draw.integers(0, 128, shape) + 127 * (label or 0)).astype(np.uint8) for label in labels]
        encoded = tuple(encoded_image(image, label) for image, label in zip(pixels, labels, strict=True))
    return EncodedSet(examples=encoded)


def encoded_text(ids, label):
    arrays = {"input_ids": ids, "labels": np.array(-100 if label is None else label)}
    return Encoded(arrays=arrays, weight=0 if label is None else 1, length=len(ids))


@pytest.fixture
def copied(tiny_bundles, tmp_path):
    """The function that copies a small bundle to a folder that may be written to."""
    return lambda name: open_bundle(shutil.copytree(tiny_bundles / name, tmp_path / name))


def calibration(bundle, count, *, adapter=None, labelled=True):
    data = examples(bundle, 2 * count, labelled=labelled)
    return Calibration(encoded=data, count=count, adapter=adapter)


def added(bundle, name, data, report=lambda _: None):
    manifest = add_target(bundle.root, bundle.manifest, load_profile(name), data, report)
    (bundle.root / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    return open_bundle(bundle.root)


@pytest.mark.parametrize("name", ["vek280", "ryzen-ai-phoenix"])
def test_a_target_of_images(copied, name):
    lines = []
    bundle = copied("split-vision")
    found = added(bundle, name, calibration(bundle, 60), lines.append)
    profile = load_profile(name)
    target, graph = found.manifest.targets[name], found.manifest.graphs[f"prefix_{name}"]
    assert (target.graph, target.batch, target.calibration_examples) == (
        f"prefix_{name}",
        profile.accelerator.batch,
        60,
    )
    assert (target.activation_type, target.zero_point) == (
        profile.accelerator.activation_type,
        profile.accelerator.zero_point,
    )
    assert graph.inputs[0].shape == (target.batch, 3, 32, 32)
    boundary = found.manifest.split.boundary
    assert [tensor.name for tensor in graph.outputs] == [tensor.name for tensor in boundary]
    assert graph.outputs[0].shape == (target.batch, *boundary[0].shape[1:])
    assert graph.opset == min(18, profile.accelerator.opset_max)
    table = read_node_table(found.root / graph.nodes)
    assert table.graph == target.graph
    assert check_rules(table, profile) == ()
    assert target.accuracy.measure == "linear probe"
    assert target.accuracy.examples == 30
    assert target.accuracy.before == target.accuracy.after == target.accuracy.after_half_up == 1
    assert target.accuracy.boundary_snr_db > 20
    assert target.unmeasured is None
    assert f"{name}: 100.0% of the prefix's products in 1 partition(s)" in lines


def test_the_stored_run_is_what_the_graph_gives(copied):
    import onnxruntime
    from safetensors.numpy import load_file

    bundle = copied("split-vision")
    found = added(bundle, "kv260", calibration(bundle, 20))
    stored = load_file(found.root / found.manifest.targets["kv260"].reference)
    counts = {name: array.shape[0] for name, array in stored.items()}
    assert counts == {"pixel_values": 4, "boundary_0": 4, "boundary_0.half_up": 4}
    apart = np.abs(stored["boundary_0.half_up"] - stored["boundary_0"])
    assert 0 < apart.max() <= 3 * apart[apart > 0].min()  # in steps of the quantization
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    graph = found.root / found.manifest.graphs["prefix_kv260"].path
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    for row in range(4):
        (again,) = session.run(None, {"pixel_values": stored["pixel_values"][row : row + 1]})
        np.testing.assert_array_equal(again, stored["boundary_0"][row : row + 1])


def test_a_target_of_texts_leaves_to_the_cpu_what_is_not_a_product(copied):
    lines = []
    bundle = copied("split-classifier")
    found = added(bundle, "kv260", calibration(bundle, 24), lines.append)
    table = read_node_table(found.root / "graphs" / "prefix_kv260.nodes.json")
    assert check_rules(table, load_profile("kv260")) == ()
    assert {"Softmax", "LayerNormalization", "Erf", "Gather"} <= {node.op for node in table.nodes}
    assert found.manifest.targets["kv260"].accuracy.boundary_snr_db > 20
    sequence = bundle.manifest.graphs["prefix"].inputs[0].shape[1]
    assert {tensor.shape for tensor in found.manifest.graphs["prefix_kv260"].inputs} == {(1, sequence)}


def test_a_head_that_knows_its_task_is_measured_itself(copied):
    bundle = copied("split-vision")
    found = added(bundle, "kv260", calibration(bundle, 20, adapter={}))
    accuracy = found.manifest.targets["kv260"].accuracy
    assert (accuracy.measure, accuracy.examples) == ("model", 20)
    assert abs(accuracy.before - accuracy.after) <= 0.2


def always(bundle, label, out):
    """Write the bundle's adapter with a head that answers one label whatever it is shown; return the folder."""
    adapter = read_adapter(bundle.adapter_path)
    theta = to_theta(adapter, bundle.manifest)
    head = bundle.manifest.layout.views(theta)
    head["base_model.model.classifier.weight"][:] = 0
    head["base_model.model.classifier.bias"][:] = [-3, 3] if label else [3, -3]
    write_adapter(from_theta(theta, bundle.manifest, adapter, bundle.manifest.task.labels, None), out)
    return out


@pytest.mark.parametrize(("label", "share"), [(0, 13 / 27), (1, 14 / 27)])
def test_what_is_measured_is_the_bundles_adapter(copied, tmp_path, label, share):
    bundle = copied("split-classifier")
    adapter = inference_inputs(read_adapter(always(bundle, label, tmp_path / "adapter")), bundle)
    accuracy = added(bundle, "kv260", calibration(bundle, 27, adapter=adapter)).manifest.targets["kv260"].accuracy
    assert (accuracy.before, accuracy.after) == (share, share)


def test_a_build_from_an_adapter_measures_that_adapter_and_its_head(tiny_bundles, tmp_path):
    rows = [{"text": f"{word} film", "label": "negative"} for word in ("bad", "poor", "dull", "boring", "good")]
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(json.dumps(row) for row in [{"text": "a fine plot", "label": "positive"}, *rows]))
    spec = BuildSpec(
        model=str(tiny_bundles / "models" / "classifier"), task="text-classification", sequence=16,
        adapter=always(open_bundle(tiny_bundles / "split-classifier"), 1, tmp_path / "adapter"),
        target=("kv260",), calibration=texts, calibration_examples=4, out=tmp_path / "bundle",
    )  # fmt: skip
    accuracy = build_bundle(spec).targets["kv260"].accuracy
    assert (accuracy.measure, accuracy.before, accuracy.after) == ("model", 1 / 3, 1 / 3)


@pytest.mark.parametrize("base", ["int8", "int4"])
def test_a_target_of_a_packed_base_is_quantized_from_its_unpacked_matrices(tiny_bundles, tmp_path, base):
    texts = tmp_path / "texts.jsonl"
    rows = [{"text": f"{word} film", "label": "negative"} for word in ("bad", "poor", "dull", "boring", "good", "fine")]
    texts.write_text("\n".join(json.dumps(row) for row in [*rows, {"text": "a fine plot", "label": "positive"}] * 3))
    spec = BuildSpec(
        model=str(tiny_bundles / "models" / "classifier"), task="text-classification", sequence=16, split=1,
        labels=("negative", "positive"), base=PrecisionSpec(name=base), target=("kv260",), calibration=texts,
        calibration_examples=10, out=tmp_path / "bundle",
    )  # fmt: skip
    manifest = build_bundle(spec)
    assert open_bundle(spec.out).manifest.base.packed.recipe.startswith(base)
    accuracy = manifest.targets["kv260"].accuracy
    assert accuracy.boundary_snr_db > 15
    nodes = {name: read_node_table(spec.out / manifest.graphs[name].nodes).nodes for name in ("prefix_kv260", "prefix")}
    products = [node for node in nodes["prefix_kv260"] if node.macs]
    assert products
    assert {node.op for node in products} <= {"Gemm", "MatMul", "Conv"}
    assert len([node for node in nodes["prefix"] if node.macs]) == len(products)
    held = load_file(open_bundle(spec.out).weights_path)
    assert not [name for name in held if name.endswith("dense.weight")]
    assert not (spec.out / "unpacked").exists()


def test_calibration_examples_that_cannot_be_used_are_named_before_anything_is_traced(tiny_bundles, tmp_path):
    models, table, stages = tiny_bundles / "models", tmp_path / "examples.jsonl", []
    image = models / "pictures" / "dark" / "00.npy"
    spec = BuildSpec(
        model=str(models / "vision"), task="image-classification", labels=("dark", "light"), split=1,
        method=MethodSpec(target_modules=("convolution",)), target=("kv260",), calibration=table,
        out=tmp_path / "bundle",
    )  # fmt: skip
    for row, words in (
        ({"image": str(image), "label": "dusk"}, "dusk"),
        ({"image": "lost.png", "label": "dark"}, "lost.png"),
    ):
        table.write_text(json.dumps(row) + "\n")
        with pytest.raises(InvalidData, match=words):
            build_bundle(spec, stages.append)
        assert stages[-1] == f"reading {table}"
        assert not (tmp_path / "bundle").exists()


def test_without_labels_the_accuracy_is_not_known(copied):
    bundle = copied("split-vision")
    manifest = added(bundle, "kv260", calibration(bundle, 8, labelled=False)).manifest
    target = manifest.targets["kv260"]
    assert target.accuracy is None
    assert f"kv260: {target.unmeasured}" in target_table(manifest).caption
    assert target.unmeasured == ("accuracy needs 2 examples with a label beside the 8 that were calibrated on; found 0")


def test_a_bundle_that_says_nothing_of_halves_rounded_up_is_read(tiny_bundles):
    text = (tiny_bundles / "split-vision" / "manifest.json").read_text(encoding="utf-8")
    manifest = json.loads(text)
    for target in manifest["targets"].values():
        target.pop("unmeasured", None)
        target["accuracy"].pop("after_half_up", None)
    found = read_manifest(json.dumps(manifest)).targets["kv260"]
    assert (found.unmeasured, found.accuracy.after_half_up) == (None, None)


def test_accuracy_with_halves_up_is_that_of_the_graph_that_rounds_them_up(copied):
    """Another graph in its place, which gives nothing but zeros, changes that figure and no other."""
    bundle = copied("split-vision")
    data, manifest = calibration(bundle, 20), bundle.manifest
    prefixes = open_prefixes(bundle.root, manifest, ir.load(bundle.graph_path("prefix_kv260")))
    found = measure_accuracy(prefixes, data, manifest, 1)
    (boundary,) = manifest.split.boundary
    sizes = ",".join(map(str, boundary.shape[1:]))
    zeros = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> '
        f"zeros (float[1,3,32,32] pixel_values) => (float[1,{sizes}] boundary_0) "
        f"<int64[4] shape = {{1,{sizes}}}> {{ boundary_0 = ConstantOfShape(shape) }}"
    )
    off = measure_accuracy(dataclasses.replace(prefixes, half_up=open_model(ir.from_proto(zeros))), data, manifest, 1)
    assert found.after_half_up == 1 > off.after_half_up
    assert dataclasses.replace(off, after_half_up=1) == found


@pytest.mark.parametrize(
    ("asked", "available", "calibrated", "measured"),
    [(24, 80, 24, 56), (40, 80, 40, 40), (60, 80, 40, 40), (60, 3, 2, 1)],
)
def test_accuracy_is_measured_on_examples_that_were_not_calibrated_on(
    tiny_bundles, tmp_path, asked, available, calibrated, measured
):
    pictures = sorted((tiny_bundles / "models" / "pictures").rglob("*.npy"))[:: 80 // available][:available]
    for path in pictures:
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / path.parent.name)
    bundle = open_bundle(tiny_bundles / "split-vision")
    found = read_calibration(tmp_path, open_task(bundle), asked, None)
    assert found.count == calibrated
    assert found.measured == tuple(range(calibrated, calibrated + measured))
    told = f"{calibrated} examples to calibrate on, {measured} others to measure accuracy on"
    why = " (accuracy needs 2 examples with a label beside the 2 that were calibrated on; found 1)"
    assert str(found) == told + (why if measured < 2 else "")


@pytest.mark.parametrize(("name", "profile"), [("split-vision", "vek280"), ("split-classifier", "kv260")])
def test_the_plan_before_quantizing_is_that_of_the_quantized_graph(copied, name, profile):
    bundle = copied(name)
    accelerator = load_profile(profile).accelerator
    planned = plan_placement(planned_table(bundle.graph_path("prefix"), accelerator), accelerator)
    found = added(bundle, profile, calibration(bundle, 8))
    table = read_node_table(found.root / found.manifest.graphs[f"prefix_{profile}"].nodes)
    assert planned == plan_placement(table, accelerator)
    assert len(planned.partitions) == (1 if name == "split-vision" else 6)


def demanding(profile, **limits):
    found = load_profile(profile)
    return dataclasses.replace(found, execution=dataclasses.replace(found.execution, **limits))


@pytest.mark.parametrize(
    ("limits", "found", "allowed"),
    [
        ({"max_partitions": 5}, "max_partitions: it is cut into 6 pieces", "the profile allows 5"),
        ({"min_offload": 0.9}, "min_offload: 88.9% of its multiply-accumulates", "the profile demands 90.0%"),
    ],
)
def test_what_the_profile_would_refuse_is_refused_before_it_is_quantized(copied, limits, found, allowed):
    bundle = copied("split-classifier")
    profile, lines = demanding("kv260", **limits), []
    mend = "change the limit in a copy of the profile and name its path"
    with pytest.raises(PlacementRefused, match=rf"{mend}[\s\S]*{found}[\s\S]*{allowed}"):
        add_targets(
            bundle.root, bundle.manifest, [load_profile("vek280"), profile], calibration(bundle, 4), lines.append
        )
    assert not [line for line in lines if "quantizing" in line]
    with pytest.raises(PlacementRefused, match=found):
        add_target(bundle.root, bundle.manifest, profile, calibration(bundle, 4), lines.append)


def test_what_the_target_would_refuse_is_refused(copied):
    bundle = copied("split-vision")
    profile = load_profile("kv260")
    limits = dataclasses.replace(profile.accelerator.limits, kernel_max=1)
    changed = dataclasses.replace(profile, accelerator=dataclasses.replace(profile.accelerator, limits=limits))
    refusal = r"prefix_kv260: DPUCZDX8G_ISA1_B4096 would refuse it by kernel:\n  - kernel: "
    with pytest.raises(PlacementRefused, match=refusal):
        add_target(bundle.root, bundle.manifest, changed, calibration(bundle, 8), print)


def test_profiles_without_an_accelerator_are_no_targets():
    assert [profile.name for profile in load_targets(["kv260", "vek280"])] == ["kv260", "vek280"]
    with pytest.raises(ExportError, match="raspberry-pi-5: the profile has no accelerator"):
        load_targets(["kv260", "raspberry-pi-5"])
    with pytest.raises(ExportError, match="kv260: named twice"):
        load_targets(["kv260", "kv260"])


def test_a_target_needs_examples(copied):
    bundle = copied("split-vision")
    with pytest.raises(ExportError, match="no calibration examples"):
        added(bundle, "kv260", calibration(bundle, 0))


def test_what_rounding_halves_up_changes_is_shown(tiny_bundles, capsys):
    """Of one operator at most one step, of all of them together what the stored outputs say."""
    folder = tiny_bundles / "split-vision"
    assert offline(["parity", str(folder), "--rounding", "--json"]) == 0
    effects = {effect["target"]: effect for effect in json.loads(capsys.readouterr().out)["rounding"]}
    assert list(effects) == ["vek280", "kv260", "ryzen-ai-strix"]
    for name, effect in effects.items():
        assert (effect["operators"], effect["left_out"], effect["operator_largest_lsb"]) == (9, 0, 1)
        assert 0 < effect["operator_differing"] < 0.05
        bundle = open_bundle(folder)
        reference = read_reference(bundle, bundle.manifest.targets[name])
        (found,) = effect["boundary"]
        steps = np.abs(reference.half_up["boundary_0"] - reference.half_even["boundary_0"]) / found["step"]
        assert found["largest_lsb"] == steps.max() > 1
        assert found["differing"] == pytest.approx(np.mean(steps > 0))
        assert found["beyond"] == pytest.approx(np.mean(steps > 1))
    assert offline(["parity", str(folder), "--rounding"]) == 0
    assert "9 operators, each by itself" in capsys.readouterr().out
