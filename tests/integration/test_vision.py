"""Image classifiers: LoRA on convolutions of every form, each build compared with torch and PEFT."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

from fieldtune.adapters.arrays import inference_inputs
from fieldtune.adapters.directory import read_adapter
from fieldtune.bundle.opening import open_bundle
from fieldtune.errors import UnsupportedModel
from fieldtune_offline import BuildSpec, MethodSpec, build_bundle
from fieldtune_offline.quiet import quiet_loading

REPOSITORY = Path(__file__).resolve().parents[2]
PREPROCESSOR = {
    "size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25],
}  # fmt: skip
FAMILIES = {
    "ResNet-basic": (
        "ResNet",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"},
        ("convolution",),
    ),
    "ResNet-bottleneck": (
        "ResNet",
        {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2], "layer_type": "bottleneck"},
        ("convolution",),
    ),
    "ConvNext": (
        "ConvNext",
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "layer_scale_init_value": 1.0},
        ("pwconv1", "pwconv2", "downsampling_layer.1"),
    ),
    "ViT": (
        "ViT",
        {
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
            "image_size": 32, "patch_size": 8,
        },
        ("q_proj", "v_proj", "projection"),
    ),
}  # fmt: skip


def _statistics(model):
    """Give batch normalization statistics that are not the identity's."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)


@pytest.fixture
def model(tmp_path):
    """The function that writes a model of a family with random weights."""

    def write(family, settings, preprocessor=PREPROCESSOR):
        folder = tmp_path / "model"
        torch.manual_seed(0)
        with quiet_loading():
            config = getattr(transformers, f"{family}Config")(**settings)
            made = transformers.AutoModelForImageClassification.from_config(config)
            _statistics(made)
            made.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
        return folder

    return write


@pytest.fixture
def efficientnet_lite(tmp_path):
    """A directory of EfficientNet-Lite0 with random weights for small images, and the code that it brings along."""
    folder = tmp_path / "lite"
    folder.mkdir()
    source = REPOSITORY / "demo" / "efficientnet_lite" / "modeling_efficientnet_lite.py"
    shutil.copy(source, folder)
    config = {
        "model_type": "efficientnet_lite", "image_size": 32, "num_channels": 3,
        "architectures": ["EfficientNetLiteForImageClassification"],
        "auto_map": {
            "AutoConfig": "modeling_efficientnet_lite.EfficientNetLiteConfig",
            "AutoModelForImageClassification": "modeling_efficientnet_lite.EfficientNetLiteForImageClassification",
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    torch.manual_seed(0)
    with quiet_loading():
        made = transformers.AutoModelForImageClassification.from_config(
            transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True), trust_remote_code=True
        )
        _statistics(made)
        made.save_pretrained(folder)
    return folder


def _build(folder, out, **changes):
    settings = {"task": "image-classification", "labels": ("dark", "light"), **changes}
    return build_bundle(BuildSpec(model=str(folder), out=out, **settings))


def _check(manifest):
    for record in manifest.parity:
        assert record.loss_relative <= 1e-5
        assert record.gradient_relative <= 1e-4
        assert record.inference_relative <= 1e-4
        assert not record.vanishing_gradients


@pytest.mark.slow
@pytest.mark.parametrize(("family", "settings", "targets"), FAMILIES.values(), ids=FAMILIES)
def test_a_family_builds_and_passes_parity(model, tmp_path, family, settings, targets):
    manifest = _build(model(family, settings), tmp_path / "bundle", method=MethodSpec(rank=4, target_modules=targets))
    _check(manifest)
    assert len(manifest.layout.parameters) >= 4
    assert manifest.text is None
    assert (manifest.image.height, manifest.image.width, manifest.image.mean) == (32, 32, (0.5, 0.5, 0.5))
    assert open_bundle(tmp_path / "bundle").manifest == manifest
    assert not (tmp_path / "bundle" / "tokenizer.json").exists()


@pytest.mark.slow
def test_efficientnet_lite_brings_its_own_code_and_padding(efficientnet_lite, tmp_path):
    lora = tmp_path / "lora.json"
    lora.write_text(json.dumps({"target_modules": r"blocks\.1[45]\.(expand|project)|head", "r": 4}))
    changes = {"method": MethodSpec(peft_config=lora), "out": tmp_path / "bundle"}
    with pytest.raises(UnsupportedModel, match=r"brings Python code of its own .*--trust-remote-code"):
        _build(efficientnet_lite, **changes)
    manifest = _build(efficientnet_lite, trust_remote_code=True, **changes)
    _check(manifest)
    graph = onnxruntime.InferenceSession(tmp_path / "bundle" / "graphs" / "gradient.onnx")
    # Padding by zeros is differentiated without fixing the batch.
    assert graph.get_inputs()[0].shape == ["batch", 3, 32, 32]
    nodes = json.loads((tmp_path / "bundle" / "graphs" / "infer.nodes.json").read_text())["nodes"]
    operators = {node["op"] for node in nodes}
    assert "Pad" not in operators, "zero padding belongs into the convolution"
    assert {"Conv", "Clip"} <= operators
    for node in nodes:
        if node["op"] == "Conv":
            assert set(node["attributes"]) == {"kernel_shape", "strides", "pads", "dilations", "group"}
    depthwise = tmp_path / "depthwise.json"
    depthwise.write_text(json.dumps({"target_modules": r"blocks\.15\.depthwise", "r": 1920}))
    with pytest.raises(UnsupportedModel, match=r"blocks\.15\.depthwise: a convolution in 1152 groups|group"):
        _build(efficientnet_lite, tmp_path / "depth", trust_remote_code=True, method=MethodSpec(peft_config=depthwise))
    assert not (tmp_path / "depth").exists()


def test_convolution_adapters_of_any_rank_are_served_as_peft_serves_them(model, tmp_path):
    family, settings, targets = FAMILIES["ResNet-basic"]
    folder = model(family, settings)
    _build(folder, tmp_path / "bundle", method=MethodSpec(rank=4, target_modules=targets))
    bundle = open_bundle(tmp_path / "bundle")
    session = onnxruntime.InferenceSession(bundle.graph_path("infer"))
    images = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    for rank, alpha in ((2, 2), (7, 21)):
        with quiet_loading():
            base = transformers.AutoModelForImageClassification.from_pretrained(folder, num_labels=2)
            config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets))
            made = get_peft_model(base, config)
            torch.manual_seed(rank)
            for name, parameter in made.named_parameters():
                if "lora_" in name:
                    torch.nn.init.normal_(parameter, std=0.2)
            made.save_pretrained(tmp_path / f"adapter{rank}")
            again = PeftModel.from_pretrained(
                transformers.AutoModelForImageClassification.from_pretrained(folder, num_labels=2),
                str(tmp_path / f"adapter{rank}"),
            ).eval()
        with torch.no_grad():
            expected = again(pixel_values=torch.from_numpy(images)).logits.numpy()
        fed = inference_inputs(read_adapter(tmp_path / f"adapter{rank}"), bundle)
        (found,) = session.run(["logits"], {"pixel_values": images, **fed})
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("preprocessor", "message"),
    [
        (None, "no preprocessor_config.json"),
        ({**PREPROCESSOR, "rescale_factor": 0.5}, "rescale_factor is 0.5; only 1/255"),
        ({**PREPROCESSOR, "resample": 1}, "resample is 1; supported: 0"),
        ({**PREPROCESSOR, "image_mean": [0.5]}, "image_mean is .*expected 3 numbers"),
        ({**PREPROCESSOR, "do_resize": False}, "do_resize: false: not done on devices"),
        (
            {**PREPROCESSOR, "do_center_crop": True, "crop_size": {"height": 24, "width": 24}},
            "only a shortest_edge is supported before a cut",
        ),
        ({**PREPROCESSOR, "size": {"longest_edge": 9}}, "size is .*expected height and width, or shortest_edge"),
    ],
)
def test_what_a_device_cannot_prepare_is_refused(model, tmp_path, preprocessor, message):
    folder = model("ResNet", FAMILIES["ResNet-basic"][1], preprocessor or {})
    if preprocessor is None:
        (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UnsupportedModel, match=message):
        _build(folder, tmp_path / "bundle", method=MethodSpec(target_modules=("convolution",)))
    assert not (tmp_path / "bundle").exists()
