"""preprocessor_config.json, as transformers writes it for its models, as devices prepare images."""

import json
import types

import pytest

from fieldtune.bundle.manifest import ImageSpec
from fieldtune.errors import UnsupportedModel
from fieldtune_offline.modalities.image import image_spec

SQUARE = {"size": {"height": 32, "width": 24}, "image_mean": [0.5, 0.25, 0.125], "image_std": [0.5, 0.5, 0.5]}


@pytest.fixture
def read(tmp_path):
    """The function from settings, and the model's number of channels, to the spec."""

    def run(settings, channels=3, **changes):
        text = settings if isinstance(settings, str) else json.dumps({**settings, **changes})
        (tmp_path / "preprocessor_config.json").write_text(text)
        return image_spec(str(tmp_path), types.SimpleNamespace(num_channels=channels))

    return run


def test_both_edges_are_resized(read):
    assert read(SQUARE) == ImageSpec(
        height=32, width=24, channels=3, resize=None, resample="bilinear",
        mean=(0.5, 0.25, 0.125), std=(0.5, 0.5, 0.5),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({"size": 16}, (16, 16, None)),
        ({"size": {"shortest_edge": 16}}, (16, 16, 16)),
        # ResNet, ViT and the like: the shorter edge, then a cut.
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 200}},
         (224, 200, 256)),
        ({"size": {"height": 9, "width": 9}, "do_center_crop": True, "crop_size": 9}, (9, 9, None)),
        # ConvNeXT: 224 / 0.875 = 256 below 384 pixels, all of the image from there on.
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, (224, 224, 256)),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, (384, 384, None)),
    ],
)  # fmt: skip
def test_sizes(read, settings, sizes):
    found = read({**SQUARE, **settings})
    assert (found.height, found.width, found.resize) == sizes


def test_what_is_not_normalized_keeps_its_values(read):
    found = read(SQUARE, channels=1, do_normalize=False)
    assert (found.mean, found.std) == ((0.0,), (1.0,))
    assert read(SQUARE, channels=1, image_mean=0.5, image_std=0.25).std == (0.25,)


@pytest.mark.parametrize(("number", "name"), [(0, "nearest"), (2, "bilinear"), (3, "bicubic")])
def test_pillows_numbers(read, number, name):
    assert read(SQUARE, resample=number).resample == name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resample": 1}, r"resample is 1; supported: 0 \(nearest\), 2 \(bilinear\), 3 \(bicubic\)"),
        ({"rescale_factor": 1 / 127.5}, r"rescale_factor is 0\.0078.*; only 1/255 is supported"),
        ({"do_rescale": False}, r"rescale_factor is 1\.0"),
        ({"rescale_offset": True}, "rescale_offset: not done on devices"),
        ({"do_pad": True, "do_resize": False}, "do_pad, do_resize: false: not done on devices"),
        ({"size": {"longest_edge": 9}}, "size is {'longest_edge': 9}; expected height and width, or shortest_edge"),
        ({"size": None}, "size is None"),
        ({"do_center_crop": True, "crop_size": {"shortest_edge": 9}}, "crop_size is .*; expected height and width"),
        (
            {"do_center_crop": True, "crop_size": 9},
            "images are resized to 32 x 24 without regard to their form",
        ),
        ({"image_mean": [0.5]}, r"image_mean is \[0\.5\]; expected 3 numbers, one a channel"),
        ({"image_std": None}, "image_std is None; expected 3 numbers"),
    ],
)
def test_what_devices_do_not_do_is_refused_with_the_file(read, changes, message):
    with pytest.raises(UnsupportedModel, match=rf"preprocessor_config\.json: {message}"):
        read({**SQUARE, **changes})


def test_a_file_that_is_none(read, tmp_path):
    with pytest.raises(UnsupportedModel, match=r"preprocessor_config\.json: not JSON"):
        read("{")
    with pytest.raises(UnsupportedModel, match=r"no preprocessor_config\.json, which says how images are resized"):
        image_spec(str(tmp_path / "nothing"), types.SimpleNamespace())
