"""Builds on a packed base: methods and tasks, splits, what stays in float32, and what is refused."""

import dataclasses
import shutil

import pytest
import torch
from safetensors.torch import load_file

from fieldtune.bundle.opening import open_bundle
from fieldtune.errors import InvalidBundle, ParityError, UnsupportedModel
from fieldtune_offline import BuildSpec, MethodSpec, build_bundle
from fieldtune_offline.merge import merge_adapter
from fieldtune_offline.ort_training.export import export_ort_training
from fieldtune_offline.precisions.int8 import Int8
from fieldtune_offline.precisions.table import precision_of
from fieldtune_offline.spec import MergeSpec, PrecisionSpec
from nf4_reference import bitsandbytes, needs_bitsandbytes

pytestmark = pytest.mark.slow

PAIRS = {"target_modules": ("q_proj", "down_proj"), "rank": 4}
CASES = {
    "int8-lora": (PrecisionSpec(name="int8"), MethodSpec(target_modules=("embed_tokens", "lm_head", "q_proj"))),
    "int4-dora": (PrecisionSpec(name="int4", block=32, symmetric=True), MethodSpec(name="dora", **PAIRS)),
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
    assert "model.layers.0.mlp.up_proj.weight" not in held
    assert held["model.norm.weight"].dtype == torch.float32


def test_what_is_stored_is_what_the_checkpoints_matrix_packs_to(encoder, tiny_models):
    manifest = build_bundle(dataclasses.replace(encoder, base=PrecisionSpec(name="int4")))
    name = "encoder.layer.1.output.dense"
    weight = load_file(tiny_models / "classifier" / "model.safetensors")[f"{name}.weight"]
    held = load_file(open_bundle(encoder.out).weights_path)
    precision = precision_of(manifest.base.packed.recipe)
    for part, expected in zip(precision.part_names, precision.pack(weight), strict=True):
        assert torch.equal(held[f"bert.{name}.{part}"], expected)


def test_the_frozen_part_is_cut_off_a_packed_base(encoder):
    manifest = build_bundle(dataclasses.replace(encoder, base=PrecisionSpec(name="nf4"), split=1, sequence=16))
    assert {"prefix", "suffix_gradient", "suffix_eval", "suffix_infer"} <= manifest.graphs.keys()
    assert manifest.graphs["prefix"].in_order


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"base": PrecisionSpec(name="fp8")}, ValueError, "base 'fp8' is unknown; expected one of float32, int8"),
        ({"base": PrecisionSpec(name="int4", block=48)}, ValueError, "block is 48; expected 32, 64, 128"),
        ({"base": PrecisionSpec(name="int8", block=32)}, ValueError, "--block: the base int8 has no such setting"),
        ({"base": PrecisionSpec(symmetric=True)}, ValueError, "--symmetric: the base float32 has no such setting"),
        ({"base": PrecisionSpec(name="int8"), "split": 1, "sequence": 16}, UnsupportedModel, "multiplies integers"),
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


def test_what_is_made_of_float32_says_so(tmp_path, tiny_bundles):
    bundle = tiny_bundles / "packed-int4"
    adapter = bundle / "adapter"
    with pytest.raises(InvalidBundle, match=r"packed \(int4/64/asymmetric\), and an adapter is merged.*--base float32"):
        merge_adapter(MergeSpec(bundle=bundle, adapter=adapter, out=tmp_path / "merged"))
    with pytest.raises(InvalidBundle, match="the official training artifacts are in float32"):
        export_ort_training(bundle)


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
