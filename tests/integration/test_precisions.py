"""Builds on a packed base: methods and tasks, splits, what stays in float32, and what is refused."""

import dataclasses
import shutil

import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file

from fieldtune.bundle.node_tables import read_node_table
from fieldtune.bundle.opening import open_bundle
from fieldtune.errors import InvalidBundle, ParityError
from fieldtune_offline import BuildSpec, MethodSpec, build_bundle
from fieldtune_offline.ort_training.export import export_ort_training
from fieldtune_offline.passes.split_prefix import split_prefix
from fieldtune_offline.precisions.int8 import Int8
from fieldtune_offline.precisions.table import precision_of
from fieldtune_offline.spec import PrecisionSpec
from nf4_reference import bitsandbytes, needs_bitsandbytes

pytestmark = pytest.mark.slow

PAIRS = {"target_modules": ("q_proj", "down_proj"), "rank": 4}
CASES = {
    "int8-lora": (PrecisionSpec(name="int8"), MethodSpec(target_modules=("embed_tokens", "lm_head", "q_proj"))),
    "int4-dora": (PrecisionSpec(name="int4", block=32, symmetric=True), MethodSpec(name="dora", **PAIRS)),
    "int8-dora": (PrecisionSpec(name="int8"), MethodSpec(name="dora", target_modules=("embed_tokens", "q_proj"))),
    "nf4-miss": (PrecisionSpec(name="nf4", double_quant=False), MethodSpec(name="miss", **PAIRS)),
}


@pytest.fixture
def decoder(tiny_models, tmp_path):
    return BuildSpec(model=str(tiny_models / "lm"), task="text-generation", out=tmp_path / "bundle")


@pytest.fixture
def encoder(tiny_models, tmp_path):
    model = str(tiny_models / "classifier")
    return BuildSpec(model=model, task="text-classification", labels=("a", "b"), out=tmp_path / "bundle")


@pytest.mark.parametrize(("base", "method"), CASES.values(), ids=CASES)
def test_a_language_model_computes_what_torch_computes_with_the_unpacked_matrices(decoder, base, method):
    manifest = build_bundle(dataclasses.replace(decoder, base=base, method=method))
    for record in manifest.parity:
        assert record.loss_relative <= 1e-5
        assert record.gradient_relative <= 1e-4
        assert record.inference_relative <= 1e-4
    packed = manifest.base.packed
    assert packed.recipe.startswith(base.name)
    # The head is the embedding, whose rows are gathered.
    assert packed.matrices["lm_head"] == packed.matrices["model.embed_tokens"] == "int8"
    assert set(packed.matrices.values()) == {"int8", packed.recipe}
    for cost in packed.cost:
        assert 0.6 < cost.gradient_cosine < 1
        assert 0 < cost.outputs_relative < 0.5
        assert cost.packed_loss == pytest.approx(cost.loss, rel=0.1)
    held = load_file(open_bundle(decoder.out).weights_path)
    assert {held[f"model.layers.0.mlp.up_proj.{part}"].dtype for part in ("codes", "scales")} <= {
        *(torch.uint8, torch.int8, torch.float32),
    }
    assert not [name for name in held if name.endswith(("proj.weight", "head.weight", "tokens.weight"))]
    assert held["model.norm.weight"].dtype == torch.float32
    # What DoRA's magnitudes are fed with is found by the names of the parts.
    for weight in filter(None, (parameter.weight for parameter in manifest.layout.parameters)):
        assert weight.packed.recipe in packed.matrices.values()
        assert held[f"{weight.name}.codes"].shape[0] == weight.packed.rows
    # A new adapter starts with the lengths of the unpacked matrices, so that it changes nothing.
    adapter = load_file(open_bundle(decoder.out).adapter_path / "adapter_model.safetensors")
    for p in (p for p in manifest.layout.parameters if p.weight is not None):
        precision = precision_of(p.weight.packed.recipe)
        parts = [held[f"{p.weight.name}.{part}"] for part in precision.part_names]
        matrix = precision.unpack(parts, p.weight.packed.rows, p.weight.packed.columns)
        lengths = torch.linalg.norm(matrix, dim=0 if p.weight.axes[0] == "num_embeddings" else 1)
        torch.testing.assert_close(adapter[p.key].reshape(-1), lengths, rtol=1e-5, atol=0)


def test_what_is_stored_is_what_the_checkpoints_matrix_packs_to(encoder, tiny_models):
    manifest = build_bundle(dataclasses.replace(encoder, base=PrecisionSpec(name="int4")))
    name = "encoder.layer.1.output.dense"
    weight = load_file(tiny_models / "classifier" / "model.safetensors")[f"{name}.weight"]
    held = load_file(open_bundle(encoder.out).weights_path)
    precision = precision_of(manifest.base.packed.recipe)
    for part, expected in zip(precision.part_names, precision.pack(weight), strict=True):
        assert torch.equal(held[f"bert.{name}.{part}"], expected)


@pytest.mark.parametrize("base", ["int8", "nf4"])
def test_the_frozen_part_is_cut_off_a_packed_base(encoder, base):
    manifest = build_bundle(dataclasses.replace(encoder, base=PrecisionSpec(name=base), split=1, sequence=16))
    assert {"prefix", "suffix_gradient", "suffix_eval", "suffix_infer"} <= manifest.graphs.keys()
    assert manifest.graphs["prefix"].in_order
    opened = open_bundle(encoder.out)
    # The last block alone is trained: the products of the first one are all in the prefix.
    prefix, suffix = (
        {node.module for node in read_node_table(encoder.out / opened.manifest.graphs[name].nodes).nodes if node.macs}
        for name in ("prefix", "suffix_infer")
    )
    assert {name for name in prefix if "layer.0." in name}
    assert not {name for name in suffix if "layer.0." in name}
    assert {name for name in suffix if "layer.1." in name}
    assert not (encoder.out / "unpacked").exists()


@pytest.mark.parametrize("wrong", ["prefix", "suffix_gradient"])
def test_a_part_whose_products_of_integers_are_not_torchs_is_not_written(encoder, monkeypatch, wrong):
    def split(gradient, others):
        cut = split_prefix(gradient, others)
        for graph in cut.graphs:
            for node in graph.model.graph if graph.name == wrong else ():
                if node.op_type == "QuantizeLinear":  # a scale that is not that of the rows
                    node.replace_input_with(1, bent(node))
        return cut

    def bent(node):
        doubled = ir.node("Add", [node.inputs[1], node.inputs[1]])
        doubled.outputs[0].type, doubled.outputs[0].shape = node.inputs[1].type, node.inputs[1].shape
        node.graph.insert_before(node, doubled)
        return doubled.outputs[0]

    monkeypatch.setattr("fieldtune_offline.build.split_prefix", split)
    with pytest.raises(ParityError, match=rf"products of integers are not those of torch.*\n.*{wrong}\.onnx"):
        build_bundle(dataclasses.replace(encoder, base=PrecisionSpec(name="int8"), split=1, sequence=16))
    assert not encoder.out.exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"base": PrecisionSpec(name="fp8")}, ValueError, "base 'fp8' is unknown; expected one of float32, int8"),
        ({"base": PrecisionSpec(name="int4", block=48)}, ValueError, "block is 48; expected 32, 64, 128"),
        ({"base": PrecisionSpec(name="int8", block=32)}, ValueError, "--block: the base int8 has no such setting"),
        ({"base": PrecisionSpec(symmetric=True)}, ValueError, "--symmetric: the base float32 has no such setting"),
    ],
)
def test_what_does_not_go_together_is_refused(encoder, changes, error, message):
    with pytest.raises(error, match=message):
        build_bundle(dataclasses.replace(encoder, **changes))
    assert not encoder.out.exists()


def test_a_product_of_integers_that_is_not_torchs_is_not_written(encoder, monkeypatch):
    class Shifted(Int8):
        def lower_product(self, call, x, packed):
            product = super().lower_product(call, x, packed)
            return call.build.op("Mul", [product, call.build.constant(1.001, x.dtype)], x.dtype, product.dims)

    monkeypatch.setattr("fieldtune_offline.precisions.int8.restored", Shifted)
    precision_of.cache_clear()
    try:
        with pytest.raises(ParityError, match=r"products of integers are not those of torch.*\n.*eval\.onnx|gradient"):
            build_bundle(dataclasses.replace(encoder, base=PrecisionSpec(name="int8")))
    finally:
        precision_of.cache_clear()
    assert not encoder.out.exists()


def test_what_is_made_of_float32_says_so(tiny_bundles):
    with pytest.raises(
        InvalidBundle, match=r"packed \(int4/64/asymmetric\), and the official training artifacts are in"
    ):
        export_ort_training(tiny_bundles / "packed-int4")


@needs_bitsandbytes
def test_a_checkpoint_that_bitsandbytes_wrote_is_taken_bit_for_bit(decoder, tiny_models, tmp_path):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    bitsandbytes()
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    folder = tmp_path / "quantized"
    shutil.copytree(tiny_models / "lm", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    AutoModelForCausalLM.from_pretrained(tiny_models / "lm", quantization_config=settings).save_pretrained(folder)
    manifest = build_bundle(dataclasses.replace(decoder, model=str(folder)))
    assert manifest.base.packed.recipe == "nf4/64/double"
    stored, held = load_file(folder / "model.safetensors"), load_file(open_bundle(decoder.out).weights_path)
    names = [name.removesuffix(".weight.absmax") for name in stored if name.endswith(".absmax")]
    names = [name for name in names if not name.endswith(".nested_absmax")]
    assert len(names) == 14
    parts = {"codes": "weight", "scales": "weight.absmax", "nested": "weight.nested_absmax"}
    for name in names:
        for part, theirs in parts.items():
            assert torch.equal(held[f"{name}.{part}"].flatten(), stored[f"{name}.{theirs}"].flatten()), (name, part)
    # What it stands for is a base like any other.
    other = build_bundle(
        dataclasses.replace(decoder, model=str(folder), base=PrecisionSpec(name="float32"), out=tmp_path / "float32")
    )
    assert other.base.packed is None
    assert other.base.sha256 == manifest.base.sha256
