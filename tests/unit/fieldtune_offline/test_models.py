"""The base as it is loaded: in float32, known by its own tensors, or refused before or after a look at its files."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders import adapter_card, lora_adapter
from fieldtune.adapters.directory import write_adapter
from fieldtune.errors import UnsupportedModel
from fieldtune_offline.models import load_base
from fieldtune_offline.precisions.holding import held_matrix, matrix_layers, release_all, weight_of
from fieldtune_offline.spec import BuildSpec
from fieldtune_offline.tasks.image_classification import ImageClassification
from fieldtune_offline.tasks.text_classification import TextClassification
from fieldtune_offline.tasks.text_generation import TextGeneration
from nf4_reference import bit_equal, checkpoint, needs_bitsandbytes, unpack


@pytest.fixture
def folder(tiny_models, tmp_path):
    """A copy of the classifier, without a head, that a test may change."""
    return shutil.copytree(tiny_models / "classifier", tmp_path / "classifier")


@pytest.fixture
def load(tmp_path):
    """The function from a model's folder and settings of the build to the base."""

    def run(model, task=TextClassification, labels=("a", "b", "c"), **changes):
        held = changes.pop("held", False)
        spec = BuildSpec(model=str(model), task=task.name, out=tmp_path / "out", labels=labels, **changes)
        return load_base(spec, task, held=held)

    return run


def test_a_head_that_the_checkpoint_lacks_is_new_and_repeats_by_its_seed(folder, load):
    base, again, other = load(folder), load(folder), load(folder, seed=1)
    assert base.new_modules == ("classifier",)
    heads = [found.model.classifier.weight for found in (base, again, other)]
    assert heads[0].shape[0] == 3
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    # A head that is drawn is no part of what the base is known by.
    assert base.sha256 == other.sha256
    assert (base.image, base.dtypes, base.licence) == (None, {}, None)
    assert not base.model.training
    assert base.model.config._attn_implementation == "eager"


def test_another_weight_is_another_base_and_its_dtype_is_told(folder, load):
    before = load(folder)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("query.weight"))
    save_file({**tensors, name: tensors[name].to(torch.bfloat16)}, folder / "model.safetensors", {"format": "pt"})
    after = load(folder)
    assert after.sha256 != before.sha256
    assert after.dtypes == {name: "BF16"}
    assert {parameter.dtype for parameter in after.model.parameters()} == {torch.float32}


def of_one_dtype(folder, dtype):
    tensors = load_file(folder / "model.safetensors")
    stored = {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}
    save_file(stored, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_layers_hold_what_is_stored_and_it_is_the_same_base(folder, load, dtype):
    of_one_dtype(folder, dtype)
    held, plain = load(folder, held=True), load(folder)
    assert held.sha256 == plain.sha256
    assert held.new_modules == plain.new_modules == ("classifier",)
    assert not any(parameter.requires_grad for parameter in held.model.parameters())
    layers = dict(matrix_layers(plain.model))
    assert len(layers) > 10
    for name, layer in matrix_layers(held.model):
        (stored,) = held_matrix(layer).parts
        assert stored.dtype == (torch.float32 if name == "classifier" else dtype)
        assert torch.equal(weight_of(layer), layers[name].weight)
    release_all(held.model)
    assert {name: value.dtype for name, value in held.model.state_dict().items()} == {
        name: value.dtype for name, value in plain.model.state_dict().items()
    }
    for name, value in plain.model.state_dict().items():
        assert torch.equal(held.model.state_dict()[name], value)


def test_a_checkpoint_of_several_dtypes_is_held_in_float32(folder, load):
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("query.weight"))
    save_file({**tensors, name: tensors[name].to(torch.bfloat16)}, folder / "model.safetensors", {"format": "pt"})
    held = load(folder, held=True)
    assert held.sha256 == load(folder).sha256
    assert {held_matrix(layer).parts[0].dtype for _, layer in matrix_layers(held.model)} == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "title"),
    [
        ({"quant_method": "gptq", "bits": 4}, "GPTQ"),
        ({"quant_method": "awq"}, "AWQ"),
        ({"quant_method": "fp8"}, "FP8"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, r"bitsandbytes in 8 bits \(LLM.int8\(\)\)"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes as FP4"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, "bitsandbytes as FP4"),
        ({"quant_method": "tomorrows"}, "tomorrows"),
        ({"bits": 4}, "a scheme without a name"),
    ],
)
def test_a_checkpoint_that_is_quantized_otherwise_is_refused_by_the_schemes_name(folder, load, settings, title):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    with pytest.raises(UnsupportedModel, match=rf"are quantized: {title} \(quantization_config.*--base int4"):
        load(folder)


NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def quantized(folder, *, double):
    """Quantize the queries of a checkpoint as bitsandbytes does; return the matrices that they stand for, by name."""
    tensors, matrices = load_file(folder / "model.safetensors"), {}
    for name in [name for name in tensors if name.endswith("query.weight")]:
        matrix = tensors.pop(name)
        tensors.update(checkpoint(name, matrix, compress_statistics=double))
        matrices[f"bert.{name.removesuffix('.weight')}"] = unpack(matrix, double=double)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    settings = {**NF4, "bnb_4bit_use_double_quant": double}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    return matrices


@needs_bitsandbytes
@bit_equal
@pytest.mark.parametrize("double", [True, False])
def test_matrices_that_bitsandbytes_has_packed_are_held_as_they_are(folder, load, double):
    plain, matrices = load(folder), quantized(folder, double=double)
    base = load(folder)
    assert base.new_modules == ("classifier",)
    assert len(matrices) == 2
    for name, layer in matrix_layers(base.model):
        matrix = held_matrix(layer)
        if name in matrices:
            assert matrix.precision.recipe == f"nf4/64/{'double' if double else 'single'}"
            assert torch.equal(matrix.unpacked(), matrices[name])
        else:
            assert torch.equal(weight_of(layer), plain.model.get_submodule(name).weight)
    assert base.sha256 != plain.sha256


@needs_bitsandbytes
def test_a_packed_matrix_of_a_wrong_length_is_refused(folder, load):
    quantized(folder, double=True)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("query.weight"))
    save_file({**tensors, name: tensors[name][:-1].clone()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UnsupportedModel, match=rf"{name} has \d+ bytes, expected \d+"):
        load(folder)


def test_a_checkpoint_that_says_it_is_packed_and_is_not(folder, load):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": NF4}))
    with pytest.raises(UnsupportedModel, match="no safetensors file in it has a packed matrix; save it again"):
        load(folder)


def test_the_licence_is_that_of_the_cards_front_matter(folder, load):
    card = folder / "README.md"
    card.write_text("---\nlanguage: en\nlicense: 'apache-2.0'\n---\nlicense: mit\n")
    assert load(folder).licence == "apache-2.0"
    card.write_text("# A model\nlicense: mit\n")
    assert load(folder).licence is None


def test_an_adapters_card_names_the_classes_unless_the_build_does(folder, load, tmp_path):
    made = dataclasses.replace(lora_adapter(), card=adapter_card(labels=("no", "yes")))
    write_adapter(made, tmp_path / "adapter")
    named = load(folder, labels=(), adapter=tmp_path / "adapter")
    assert named.model.config.id2label == {0: "no", 1: "yes"}
    assert load(folder, adapter=tmp_path / "adapter").model.config.num_labels == 3


def test_a_backbone_that_lacks_weights_is_broken(folder, load):
    tensors = load_file(folder / "model.safetensors")
    left = {name: tensor for name, tensor in tensors.items() if "layer.0.attention.self.query" not in name}
    save_file(left, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UnsupportedModel, match=r"lacks weights of its own backbone: bert\.encoder\.layer\.0\."):
        load(folder)


def test_code_of_its_own_is_not_run_unasked(folder, load):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(UnsupportedModel, match=r"Python code of its own \(evil\.Model\), .* with --trust-remote-c"):
        load(folder)


def test_a_folder_without_a_fast_tokenizer(folder, load):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UnsupportedModel, match="tokenizer"):
        load(folder)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), r"not a model directory: no config\.json in it \(found: nothing\)"),
        (lambda path: path.write_text("x"), "a file; expected a model directory"),
        (lambda path: None, "no such folder; expected a model directory in transformers' format"),
    ],
)
def test_what_is_no_model_directory(load, tmp_path, make, message):
    make(tmp_path / "model")
    with pytest.raises(UnsupportedModel, match=message):
        load(tmp_path / "model")


def test_a_model_of_another_task_is_one_line(tiny_models, load):
    with pytest.raises(UnsupportedModel, match="cannot be loaded for image-classification: ") as caught:
        load(tiny_models / "lm", ImageClassification, labels=())
    assert "\n" not in str(caught.value)
    with pytest.raises(UnsupportedModel, match="labels a for text-generation, which has no classes"):
        load(tiny_models / "lm", TextGeneration, labels=("a",))
