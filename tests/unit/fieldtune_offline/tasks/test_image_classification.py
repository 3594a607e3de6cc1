"""Images with one label each, of the one size that the model takes."""

import torch
from transformers import ResNetConfig, ResNetForImageClassification

from builders import image_spec
from fieldtune.bundle import IGNORE_INDEX
from fieldtune_offline.tasks.image_classification import ImageClassification


def task(channels=3):
    config = ResNetConfig(
        num_channels=channels, embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=3
    )
    return ImageClassification(ResNetForImageClassification(config).eval(), image_spec(8, 6, channels))


def test_images_are_noise_of_the_models_size_whatever_the_sequence():
    for channels in (1, 3):
        pixels = task(channels).features(2, 17, 0)["pixel_values"]
        assert (pixels.shape, pixels.dtype) == ((2, channels, 8, 6), torch.float32)
    assert not torch.equal(task().features(2, 0, 0)["pixel_values"], task().features(2, 0, 1)["pixel_values"])


def test_the_batch_alone_varies():
    assert task().graphs(2, 0)["eval"].inputs == (
        ("pixel_values", ("batch", None, None, None)),
        ("labels", ("batch",)),
    )
    assert dict(task().pads()) == {"labels": IGNORE_INDEX}


def test_peft_wraps_it_generically():
    assert (ImageClassification.peft_type, ImageClassification.modality) == (None, "image")
