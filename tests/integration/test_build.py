"""Whole builds of tiny models: what is in a bundle, what its graphs compute, and what a failed build leaves behind."""

import dataclasses
import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from fieldtune.bundle.opening import open_bundle
from fieldtune.errors import OutputError, ParityError, UnsupportedModel
from fieldtune_offline import BuildSpec, MethodSpec, build_bundle
from fieldtune_offline.cli import main

BUNDLES = ("tiny-classifier", "static-classifier", "tiny-lm")
GRAPHS = ("gradient", "eval", "infer")


@pytest.fixture(params=BUNDLES)
def bundle(request, tiny_bundles):
    return open_bundle(tiny_bundles / request.param)


@pytest.fixture(scope="module")
def opened(tiny_bundles):
    return {name: open_bundle(tiny_bundles / name) for name in BUNDLES}


@pytest.fixture
def spec(tiny_models, tmp_path):
    """The function that describes a build of the tiny classifier."""

    def describe(**changes):
        settings = {
            "model": str(tiny_models / "classifier"), "task": "text-classification",
            "out": tmp_path / "made" / "bundle", "labels": ("negative", "positive"),
            "method": MethodSpec(rank=2, target_modules=("query",)),
        }  # fmt: skip
        return BuildSpec(**{**settings, **changes})

    return describe


def session(bundle, name):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    path = str(bundle.graph_path(name))
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def load(bundle, name):
    return onnx.load(bundle.graph_path(name), load_external_data=False)


def external(tensor):
    return {entry.key: entry.value for entry in tensor.external_data}


def batch_of(bundle, rows, length=16, seed=0):
    """Random rows of ids with padding and, in a language model, with prompts that carry no label."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(6, 60, (rows, length))
    mask = np.ones_like(ids)
    for row in range(rows):
        mask[row, length - row :] = 0
    if bundle.manifest.task.labels:
        return {"input_ids": ids, "attention_mask": mask, "labels": rng.integers(0, 2, rows)}
    labels = np.where(mask == 1, ids, -100)
    labels[:, : length // 3] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def theta_of(bundle):
    return np.random.default_rng(1).normal(0, 0.2, bundle.manifest.layout.size).astype(np.float32)


# What is in a bundle.


def test_the_manifest_comes_back_as_it_was_written(bundle):
    text = (bundle.root / "manifest.json").read_text(encoding="utf-8")
    assert bundle.manifest.to_json() == text
    on_disk = {path.relative_to(bundle.root).as_posix() for path in bundle.root.rglob("*") if path.is_file()}
    assert on_disk == {*bundle.manifest.files, "manifest.json"}
    assert set(bundle.manifest.graphs) == set(GRAPHS)
    assert len(bundle.manifest.parity) == (1 if bundle.root.name == "static-classifier" else 2)


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_are_valid_opset_18_and_ir_8(bundle, name):
    path = bundle.graph_path(name)
    onnx.checker.check_model(str(path))
    model = load(bundle, name)
    assert model.ir_version == 8
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    assert {node.domain for node in model.graph.node} == {""}
    assert (bundle.manifest.graphs[name].opset, bundle.manifest.graphs[name].ir_version) == (18, 8)


def test_weights_are_stored_once_and_under_the_checkpoints_names(bundle, tiny_bundles):
    weights = bundle.root / "graphs" / "weights.safetensors"
    held = load_file(weights)
    header = 8 + int.from_bytes(weights.read_bytes()[:8], "little")
    referred = set()
    for name in GRAPHS:
        model = load(bundle, name)
        for initializer in model.graph.initializer:
            if initializer.data_location != onnx.TensorProto.EXTERNAL:
                # Constants of the code and the empty adapters of rank 1.
                assert len(initializer.raw_data) <= 4 * 262, initializer.name
                continue
            place = external(initializer)
            assert place["location"] == "weights.safetensors"
            start = int(place["offset"])
            assert start >= header
            data = weights.read_bytes()[start : start + int(place["length"])]
            assert data == held[initializer.name].tobytes()
            assert tuple(initializer.dims) == held[initializer.name].shape
            referred.add(initializer.name)
    assert referred == set(held)

    kind = "lm" if bundle.manifest.task.name == "text-generation" else "classifier"
    prefix = "" if kind == "lm" else "bert."
    with safe_open(tiny_bundles / "models" / kind / "model.safetensors", framework="np") as checkpoint:
        names = list(checkpoint.keys())
        for name in names:
            np.testing.assert_array_equal(held[prefix + name], checkpoint.get_tensor(name), err_msg=name)
    beside = set(held) - {prefix + name for name in names}
    saved = {p.key for p in bundle.manifest.layout.parameters if p.replaces}
    # Beside the checkpoint: a head's default, and buffers that models compute.
    assert {name.rsplit(".", 1)[-1] for name in beside - saved} <= {"position_ids", "token_type_ids", "inv_freq"}


@pytest.mark.parametrize("name", GRAPHS)
def test_no_weight_is_transposed_anywhere(bundle, name):
    graph = load(bundle, name).graph
    made_by = {output: node for node in graph.node for output in node.output}
    weights = {tensor.name for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL}
    products = 0
    for node in graph.node:
        if node.op_type == "Transpose":
            source = node.input[0]
            while source in made_by and made_by[source].op_type in ("Reshape", "Identity", "Cast", "Expand"):
                source = made_by[source].input[0]
            assert source not in weights, f"{node.name} transposes {source}"
        if node.op_type == "Gemm" and node.input[1] in weights:
            products += 1
    assert products >= 2 * 6
    assert not [node.name for node in graph.node if node.op_type == "MatMul" and set(node.input) & weights]


def test_forward_and_backward_read_a_weight_in_one_orientation(opened):
    graph = load(opened["tiny-classifier"], "gradient").graph
    flags = [
        next(attribute.i for attribute in node.attribute if attribute.name == "transB")
        for node in graph.node
        if node.op_type == "Gemm" and node.input[1] == "bert.encoder.layer.1.intermediate.dense.weight"
    ]
    assert sorted(flags) == [0, 1]


@pytest.mark.parametrize("name", GRAPHS)
def test_no_node_is_made_twice(bundle, name):
    graph = load(bundle, name).graph
    seen = set()
    for node in graph.node:
        if node.op_type == "Identity":
            continue  # gives an output its name
        attributes = tuple(sorted(attribute.SerializeToString() for attribute in node.attribute))
        key = (node.op_type, tuple(node.input), attributes, len(node.output))
        assert key not in seen, node.name
        seen.add(key)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_manifest_says_what_onnx_runtime_is_fed(bundle, name):
    spec = bundle.manifest.graphs[name]
    opened = session(bundle, name)
    names = {"int64": "tensor(int64)", "float32": "tensor(float)"}
    fed = [(tensor.name, names[tensor.dtype], list(tensor.shape)) for tensor in spec.inputs]
    assert [(value.name, value.type, value.shape) for value in opened.get_inputs()] == fed
    outputs = [(tensor.name, names[tensor.dtype], len(tensor.shape)) for tensor in spec.outputs]
    assert [(value.name, value.type, len(value.shape)) for value in opened.get_outputs()] == outputs
    adapter = [(tensor.name, names[tensor.dtype], list(tensor.shape)) for tensor in spec.adapter_inputs]
    overridable = {value.name: (value.type, value.shape) for value in opened.get_overridable_initializers()}
    assert [(key, *overridable[key]) for key, _, _ in adapter] == adapter


def test_adapter_inputs_have_a_symbolic_rank(bundle):
    for name in ("eval", "infer"):
        by_key = {tensor.name: tensor.shape for tensor in bundle.manifest.graphs[name].adapter_inputs}
        assert list(by_key) == [parameter.key for parameter in bundle.manifest.layout.parameters]
        for parameter in bundle.manifest.layout.parameters:
            ranked = parameter.rank_axis is not None
            expected = tuple(
                "rank" if axis == parameter.rank_axis else size for axis, size in enumerate(parameter.shape)
            )
            assert by_key[parameter.key] == (expected[::-1] if ranked else expected)
            assert parameter.transposed == ranked
    assert not bundle.manifest.graphs["gradient"].adapter_inputs


@pytest.mark.parametrize("name", GRAPHS)
def test_the_node_table_is_the_graph(bundle, name):
    graph = load(bundle, name).graph
    table = json.loads((bundle.root / "graphs" / f"{name}.nodes.json").read_text())
    assert table["format_version"] == "1.1"
    assert table["opset"] == 18
    assert table["graph"] == name
    assert table["inputs"] == [value.name for value in graph.input]
    assert table["outputs"] == [value.name for value in graph.output]
    assert [(node["name"], node["op"], node["inputs"], node["outputs"]) for node in table["nodes"]] == [
        (node.name, node.op_type, list(node.input), list(node.output)) for node in graph.node
    ]
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    assert set(table["initializers"]) == set(initializers)
    for key, tensor in initializers.items():
        size = int(external(tensor)["length"]) if tensor.external_data else len(tensor.raw_data)
        assert table["values"][key]["bytes"] == size, key
        assert table["values"][key]["shape"] == list(tensor.dims) or "rank" in table["values"][key]["shape"]
    for value in graph.value_info:
        dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert table["values"][value.name]["shape"] == dims


def test_multiply_accumulates_of_known_products(opened):
    def macs(bundle, graph, weight):
        table = json.loads((opened[bundle].root / "graphs" / f"{graph}.nodes.json").read_text())
        return [node["macs"] for node in table["nodes"] if weight in node["inputs"] and node["op"] == "Gemm"]

    feed_forward = "bert.encoder.layer.0.intermediate.dense.weight"
    assert macs("tiny-classifier", "infer", feed_forward) == [["batch*sequence", 64, 32]]
    assert macs("static-classifier", "infer", feed_forward) == [[64, 64, 32]]
    last = "bert.encoder.layer.1.intermediate.dense.weight"
    assert macs("static-classifier", "gradient", last) == [[64, 64, 32], [64, 32, 64]]
    assert macs("static-classifier", "gradient", feed_forward) == [[64, 64, 32], [64, 32, 64]]
    assert macs("tiny-lm", "infer", "model.embed_tokens.weight") == [["batch*sequence", 262, 32]]


# What the graphs compute.


@pytest.mark.parametrize("name", ["tiny-classifier", "tiny-lm"])
def test_sums_of_rows_are_the_sums_of_the_batch(opened, name):
    bundle = opened[name]
    gradient, theta = session(bundle, "gradient"), theta_of(bundle)
    batch = batch_of(bundle, 4)
    outputs = ["loss_sum", "weight", "grad_sum"]
    whole = gradient.run(outputs, {**batch, "theta": theta})
    rows = [
        gradient.run(outputs, {**{key: array[row : row + 1] for key, array in batch.items()}, "theta": theta})
        for row in range(4)
    ]
    assert whole[0] == pytest.approx(sum(float(row[0]) for row in rows), rel=1e-5)
    counted = batch["labels"] if batch["labels"].ndim == 1 else batch["labels"][:, 1:]
    assert whole[1] == sum(row[1] for row in rows) == (counted != -100).sum()
    assert [array.shape for array in whole] == [(), (), (bundle.manifest.layout.size,)]
    summed = np.sum([row[2] for row in rows], axis=0)
    np.testing.assert_allclose(whole[2], summed, rtol=0, atol=1e-5 * np.abs(summed).max())
    views = bundle.manifest.layout.views(whole[2])
    assert all(view.any() for view in views.values())


@pytest.mark.parametrize("name", BUNDLES)
def test_a_batch_without_any_label_is_nothing(opened, name):
    bundle = opened[name]
    batch = batch_of(bundle, 4)
    batch["labels"] = np.full_like(batch["labels"], -100)
    outputs = ["loss_sum", "weight", "grad_sum"]
    loss, weight, gradient = session(bundle, "gradient").run(outputs, {**batch, "theta": theta_of(bundle)})
    assert (loss, weight) == (0.0, 0.0)
    np.testing.assert_array_equal(gradient, np.zeros(bundle.manifest.layout.size))
    loss, weight = session(bundle, "eval").run(["loss_sum", "weight"], batch)
    assert (loss, weight) == (0.0, 0.0)


def test_a_masked_row_changes_nothing(opened):
    bundle = opened["tiny-classifier"]
    gradient, theta = session(bundle, "gradient"), theta_of(bundle)
    batch = batch_of(bundle, 3)
    batch["labels"][2] = -100
    with_it = gradient.run(None, {**batch, "theta": theta})
    without = gradient.run(None, {**{key: array[:2] for key, array in batch.items()}, "theta": theta})
    assert with_it[1] == without[1] == 2
    np.testing.assert_allclose(with_it[2], without[2], rtol=0, atol=1e-6 * np.abs(without[2]).max())


def test_any_rank_goes_without_a_reload(opened):
    bundle = opened["tiny-classifier"]
    infer = session(bundle, "infer")
    batch = batch_of(bundle, 2)
    del batch["labels"]
    (base,) = infer.run(["logits"], batch)
    rng = np.random.default_rng(3)
    answers = {}
    for rank in (0, 1, 5):
        adapter = {
            tensor.name: rng.normal(0, 1, [rank if dim == "rank" else dim for dim in tensor.shape]).astype(np.float32)
            for tensor in bundle.manifest.graphs["infer"].adapter_inputs
            if "rank" in tensor.shape
        }
        (answers[rank],) = infer.run(["logits"], {**batch, **adapter})
    np.testing.assert_array_equal(answers[0], base)
    assert np.abs(answers[1] - base).max() > 1e-3
    assert np.abs(answers[5] - answers[1]).max() > 1e-3


def test_a_static_bundle_has_its_sizes_and_no_other(opened):
    bundle = opened["static-classifier"]
    for name in GRAPHS:
        for tensor in (*bundle.manifest.graphs[name].inputs, *bundle.manifest.graphs[name].outputs):
            assert all(isinstance(dim, int) for dim in tensor.shape), tensor
        values = load(bundle, name).graph.value_info
        symbols = {dim.dim_param for value in values for dim in value.type.tensor_type.shape.dim}
        assert symbols <= {"", "rank"}
    assert bundle.manifest.text.max_length == 16
    assert [(record.batch, record.sequence) for record in bundle.manifest.parity] == [(4, 16)]
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        session(bundle, "gradient").run(None, {**batch_of(bundle, 3), "theta": theta_of(bundle)})


# What is refused, and what a failed build leaves behind.


def test_a_difference_above_its_tolerance_fails_and_leaves_nothing(spec, monkeypatch):
    monkeypatch.setattr("fieldtune_offline.parity.whole.GRADIENT_TOLERANCE", 0.0)
    stages = []
    with pytest.raises(ParityError, match=r"(?s)nothing was written\n.*3, sequence 17: the gradient of .*lora_A"):
        build_bundle(spec(), stages.append)
    assert "comparing with torch" in stages[-1]
    assert list(spec().out.parent.iterdir()) == []


def test_an_interrupted_build_leaves_nothing(spec):
    def interrupt(stage):
        if stage.startswith("tracing the evaluation"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_bundle(spec(), interrupt)
    assert list(spec().out.parent.iterdir()) == []


def test_the_same_build_twice_is_the_same_bundle_and_replaces_whole(tiny_bundles, opened, tmp_path):
    first = opened["tiny-classifier"]
    out = tmp_path / "again"
    out.mkdir()
    (out / "manifest.json").write_text("{}")
    (out / "stray.txt").write_text("of an earlier bundle")
    lora = MethodSpec(rank=4, alpha=8, target_modules=("query", "value"))
    again = build_bundle(
        BuildSpec(
            model=str(tiny_bundles / "models" / "classifier"), task="text-classification", out=out, overwrite=True,
            labels=("negative", "positive"), method=lora, ort_training=first.manifest.ort_training is not None,
        )
    )  # fmt: skip
    assert not (out / "stray.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["again"]
    assert again.files == first.manifest.files
    assert dataclasses.replace(again, parity=()) == dataclasses.replace(first.manifest, parity=())
    assert open_bundle(out).manifest == again


def test_an_output_that_exists_is_refused_before_any_work(spec):
    out = spec().out
    out.mkdir(parents=True)
    (out / "notes.txt").write_text("mine")
    stages = []
    with pytest.raises(OutputError, match="exists; choose another folder or add --overwrite"):
        build_bundle(spec(), stages.append)
    with pytest.raises(OutputError, match=r"holds other things \(no manifest.json\)"):
        build_bundle(spec(overwrite=True), stages.append)
    assert stages == []
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"task": "fill-mask"},
            "known, but not supported; supported: image-classification, question-answering",
        ),
        ({"task": "text-clasification"}, "is unknown; supported: image-classification, question-answering"),
        ({"labels": ("only",)}, "1 label.*at least 2"),
        ({"labels": ("a", "b", "a")}, "more than once: a"),
        ({"task": "text-generation"}, "labels negative, positive for text-generation, which has no classes"),
        ({"task": "text-generation", "labels": ()}, "keeps no key-value cache"),
        ({"sequence": 65}, "takes up to 64 tokens; a sequence of 65 was asked for"),
        ({"method": MethodSpec(target_modules=("querry",))}, "'querry'; nearest: query"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(spec, changes, message):
    with pytest.raises(UnsupportedModel, match=message):
        build_bundle(spec(**changes))
    assert not spec().out.exists()


def _configured(**changes):
    def damage(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def _cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"no config.json in it \(found: model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be loaded .*not a valid JSON"),
        (_configured(model_type="nonsense"), "cannot be loaded .*nonsense"),
        (_configured(hidden_size="many"), "cannot be loaded .*hidden_size"),
        (_configured(num_hidden_layers=3), "lacks weights of its own backbone: bert.encoder.layer.2"),
        (_configured(problem_type="multi_label_classification"), "problem_type is multi_label_classification"),
        (_cut, "cannot be loaded .*header"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded .*no file named model.safetensors"),
        (lambda folder: [path.unlink() for path in folder.glob("tok*")], "has no fast tokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be loaded"),
    ],
)
def test_a_damaged_model_directory_is_refused(tiny_models, spec, tmp_path, damage, message):
    folder = tmp_path / "model"
    shutil.copytree(tiny_models / "classifier", folder)
    damage(folder)
    with pytest.raises(UnsupportedModel, match=message):
        build_bundle(spec(model=str(folder)))
    assert not spec().out.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing/is/here", "no such folder"), ("./here", "no such folder"), (__file__, "a file; expected a model")],
)
def test_a_path_that_is_no_model_directory_is_refused(spec, name, message):
    with pytest.raises(UnsupportedModel, match=message):
        build_bundle(spec(model=name))


def test_sizes_below_1_are_a_callers_mistake(spec):
    for changes in ({"batch": 0}, {"sequence": 0}, {"method": MethodSpec(rank=0)}):
        with pytest.raises(ValueError, match="expected at least 1"):
            build_bundle(spec(**changes))


def test_a_new_adapter_starts_as_peft_starts_it(opened):
    held = load_file(opened["tiny-classifier"].adapter_path / "adapter_model.safetensors")
    a = [tensor for key, tensor in held.items() if "lora_A" in key]
    b = [tensor for key, tensor in held.items() if "lora_B" in key]
    assert len(a) == len(b) == 4
    assert all(tensor.any() for tensor in a)
    assert not any(tensor.any() for tensor in b)


def test_programs_are_told_how_the_base_is_packed(spec, capsys):
    asked = spec()
    flags = ["--task", asked.task, "--labels", *asked.labels, "--rank", "2", "--target-modules", "query", "--json"]
    assert main(["build", asked.model, *flags, "--base", "int4", "--block", "32", "--out", str(asked.out)]) == 0
    told = json.loads(capsys.readouterr().out)["packed"]
    held = json.loads((asked.out / "manifest.json").read_text())["base"]["packed"]
    assert told == held
    assert told["recipe"] == "int4/32/asymmetric"
    assert [cost["sequence"] for cost in told["cost"]] == [17, 34]
