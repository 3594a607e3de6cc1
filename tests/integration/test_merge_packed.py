"""Merging into a packed base: folded exactly, packed anew by the same recipes, or left in float32; what it costs."""

import json

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file

from fieldtune.adapters.arrays import from_theta, inference_inputs, to_theta
from fieldtune.adapters.directory import read_adapter, write_adapter
from fieldtune.bundle.opening import open_bundle
from fieldtune.errors import ParityError, UnsupportedModel
from fieldtune_offline import BuildSpec, MethodSpec, build_bundle
from fieldtune_offline.cli import main
from fieldtune_offline.merge import merge_adapter
from fieldtune_offline.passes import stand_ins
from fieldtune_offline.precisions.table import precision_of
from fieldtune_offline.spec import MergeSpec, PrecisionSpec

pytestmark = pytest.mark.slow

TASKS = {"classifier": "text-classification", "lm": "text-generation"}
CASES = {
    "int8-ranks-biases": (
        "classifier", PrecisionSpec(name="int8"),
        {
            "target_modules": r".*\.(query|value|output\.dense|word_embeddings)", "rank_pattern": {"query": 3},
            "bias": "all", "use_rslora": True, "modules_to_save": ["LayerNorm"],
        },
    ),
    "int4-lora-bias": (
        "classifier", PrecisionSpec(name="int4"),
        {"target_modules": ["query", "dense"], "bias": "lora_only", "lora_bias": True},
    ),
    "int4-dora-tied": (
        "lm", PrecisionSpec(name="int4", block=32, symmetric=True),
        {"use_dora": True, "target_modules": ["lm_head", "q_proj"]},
    ),
    "nf4-ia3": (
        "classifier", PrecisionSpec(name="nf4"),
        {
            "peft_type": "IA3", "target_modules": ["query", "intermediate.dense", "output.dense"],
            "feedforward_modules": ["output.dense"],
        },
    ),
    "int8-miss": ("lm", PrecisionSpec(name="int8"), {"peft_type": "MISS", "target_modules": ["q_proj", "down_proj"]}),
}  # fmt: skip


@pytest.fixture
def noisy(tmp_path):
    """The function that writes an adapter for a bundle, far from its initial values, and returns its folder."""

    def write(bundle):
        opened = open_bundle(bundle)
        manifest, initial = opened.manifest, read_adapter(opened.adapter_path)
        theta = to_theta(initial, manifest)
        theta += np.random.default_rng(5).normal(0, 0.1, theta.shape).astype(np.float32)
        write_adapter(from_theta(theta, manifest, initial, manifest.task.labels, None), tmp_path / "noisy")
        return tmp_path / "noisy"

    return write


def merge(bundle, adapter, out, **changes):
    return merge_adapter(MergeSpec(bundle=bundle, adapter=adapter, out=out, **changes))


@pytest.mark.parametrize("case", CASES)
def test_a_merge_into_a_packed_base_and_one_in_float32(tiny_models, noisy, tmp_path, case):
    kind, base, settings = CASES[case]
    (tmp_path / "peft.json").write_text(json.dumps(settings))
    method = MethodSpec(peft_config=tmp_path / "peft.json")
    labels = ("a", "b") if kind == "classifier" else ()
    bundle = tmp_path / "bundle"
    build_bundle(BuildSpec(model=str(tiny_models / kind), task=TASKS[kind], labels=labels, out=bundle, base=base,
                           method=method))  # fmt: skip
    adapter = noisy(bundle)
    packed = merge(bundle, adapter, tmp_path / "packed")
    plain = merge(bundle, adapter, tmp_path / "plain", float32=True)
    assert open_bundle(bundle).manifest.base.packed.matrices == packed.base.packed.matrices
    assert packed.base.packed.cost == ()
    assert plain.base.packed is None
    # Also in loops: the head of a language model is multiplied in one where it is evaluated.
    assert not [name for name in _weights(tmp_path / "plain") if name.endswith((".codes", ".scales"))]
    for manifest in (packed, plain):
        for record in manifest.merged.parity:
            assert max(record.loss_relative, record.inference_relative) < 1e-5
    integers = base.name == "int8" or kind == "lm"
    for rounded, exact in zip(packed.merged.cost, plain.merged.cost, strict=True):
        assert (rounded.batch, rounded.sequence, rounded.loss) == (exact.batch, exact.sequence, exact.loss)
        # In float32 there are no products of integers any more.
        assert exact.outputs_relative < (0.05 if integers else 1e-5)
        assert exact.outputs_relative < rounded.outputs_relative < 0.3
        assert rounded.merged_loss == pytest.approx(rounded.loss, abs=0.3)
    # Each matrix is what the float32 one packs to; those that no adapter changes are as they were.
    held, exact = load_file(tmp_path / "packed" / "graphs/weights.safetensors"), _weights(tmp_path / "plain")
    before = load_file(bundle / "graphs/weights.safetensors")
    changed = 0
    for name, recipe in packed.base.packed.matrices.items():
        precision = precision_of(recipe)
        if f"{name}.codes" not in held or f"{name}.weight" not in exact:
            continue  # tied
        parts = [held[f"{name}.{part}"] for part in precision.part_names]
        if all(torch.equal(part, before.get(f"{name}.{key}", torch.empty(0)))
               for key, part in zip(precision.part_names, parts, strict=True)):  # fmt: skip
            unpacked = precision.unpack(parts, *exact[f"{name}.weight"].shape)
            assert torch.equal(unpacked, exact[f"{name}.weight"])
        else:
            for part, expected in zip(parts, precision.pack(exact[f"{name}.weight"]), strict=True):
                assert torch.equal(part, expected)
            changed += 1
    assert changed >= 2
    sizes = [manifest.files["graphs/weights.safetensors"].size_bytes for manifest in (packed, plain)]
    assert sizes[0] < 0.45 * sizes[1]


def _weights(folder):
    return load_file(folder / "graphs/weights.safetensors")


def test_the_weight_is_the_unpacked_one_and_the_pair(tiny_bundles, noisy, tmp_path):
    source = tiny_bundles / "packed-int4"
    adapter = noisy(source)
    merge(source, adapter, tmp_path / "plain", float32=True)
    opened = open_bundle(source)
    fed = inference_inputs(read_adapter(adapter), opened)
    held = _weights(source)
    modules = {p.module for p in opened.manifest.layout.parameters if p.rank_axis is not None}
    assert modules
    for module in modules:
        precision = precision_of(opened.manifest.base.packed.matrices[module])
        a, b = (torch.from_numpy(fed[f"base_model.model.{module}.lora_{part}.weight"]) for part in "AB")
        parts = [held[f"{module}.{part}"] for part in precision.part_names]
        expected = precision.unpack(parts, b.shape[1], a.shape[0]) + (a @ b).T
        torch.testing.assert_close(_weights(tmp_path / "plain")[f"{module}.weight"], expected, rtol=0, atol=1e-6)


def test_a_packed_product_that_is_put_back_wrongly_is_not_written(tiny_bundles, noisy, tmp_path, monkeypatch):
    source = tiny_bundles / "packed-int8"
    adapter = noisy(source)

    def doubled(held):
        addition = ir.node("Add", [held.output, held.output])
        (total,) = addition.outputs
        total.name, total.type, total.shape = f"{held.output.name}.twice", held.output.type, held.output.shape
        held.node.graph.insert_before(held.node, addition)
        return total

    monkeypatch.setattr(stand_ins, "_with_bias", doubled)
    with pytest.raises(ParityError, match=r"(?s)what their packed matrices stand for; nothing was written\n.*logits"):
        merge(source, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_wrong_fold_is_not_hidden_by_packing(tiny_bundles, noisy, tmp_path, monkeypatch):
    source = tiny_bundles / "packed-int4"
    adapter = noisy(source)
    update = "fieldtune_offline.passes.fold_lora._PairUpdate.__call__"
    monkeypatch.setattr(update, lambda self, value, fed: value + 0.99 * (fed[self.a] @ fed[self.b]).T)
    with pytest.raises(ParityError, match="do not compute what the bundle's do with the adapter; nothing was written"):
        merge(source, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_target_needs_float32(tiny_bundles, noisy, tmp_path):
    source = tiny_bundles / "packed-int4"
    with pytest.raises(UnsupportedModel, match=r"its base is packed, and what a target runs .*; add --float32"):
        merge(source, noisy(source), tmp_path / "merged", target=("kv260",), calibration=tmp_path)


def test_the_command_shows_what_it_changes(tiny_bundles, noisy, tmp_path, capsys):
    source, out = tiny_bundles / "packed-nf4", tmp_path / "merged"
    assert main(["merge", str(source), str(noisy(source)), "--out", str(out)]) == 0
    assert "What merging into the packed base changes" in capsys.readouterr().out
    assert main(["parity", str(out)]) == 0
    said = capsys.readouterr().out
    assert "What merging into the packed base changes" in said
    assert "What packing the base costs" not in said
    assert main(["merge", str(source), str(tmp_path / "noisy"), "--out", str(out), "--overwrite", "--float32",
                 "--json"]) == 0  # fmt: skip
    assert len(json.loads(capsys.readouterr().out)["merged"]["cost"]) == 2
    assert open_bundle(out).manifest.base.packed is None
