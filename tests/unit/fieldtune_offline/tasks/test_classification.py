"""What classifications of texts and images trace: losses of the labels that count, beside transformers' own."""

import math

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, ResNetConfig, ResNetForImageClassification

from builders import image_spec, manifest
from fieldtune.bundle import IGNORE_INDEX
from fieldtune.errors import UnsupportedModel
from fieldtune_offline.tasks.classification import loss_outputs
from fieldtune_offline.tasks.image_classification import ImageClassification
from fieldtune_offline.tasks.interface import Part
from fieldtune_offline.tasks.text_classification import TextClassification

BERT = BertConfig(
    vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
    max_position_embeddings=32, num_labels=3, pad_token_id=5,
)  # fmt: skip
RESNET = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=3)


@pytest.fixture(params=["text", "image"])
def task(request):
    torch.manual_seed(0)
    if request.param == "text":
        return TextClassification(BertForSequenceClassification(BERT).eval())
    return ImageClassification(ResNetForImageClassification(RESNET).eval(), image_spec(8, 8))


def test_sums_are_over_the_labels_that_count():
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [9.0, 9.0]])
    labels = torch.tensor([0, 0, IGNORE_INDEX])
    loss_sum, weight = loss_outputs(logits, labels, with_logits=False)
    # 1/2 and 3/4 are the probabilities of class 0.
    assert loss_sum.item() == pytest.approx(math.log(2) + math.log(4 / 3))
    assert (weight.item(), weight.dtype) == (2.0, torch.float32)
    assert loss_outputs(logits, labels, with_logits=True)[2] is logits


def test_without_any_label_the_sums_are_zero_and_no_error():
    loss_sum, weight = loss_outputs(torch.ones(2, 3), torch.full((2,), IGNORE_INDEX), with_logits=False)
    assert (loss_sum.item(), weight.item()) == (0.0, 0.0)


@pytest.mark.parametrize("rows", [2, 4])
def test_the_summed_loss_is_that_of_transformers(task, rows):
    batch = task.batch(rows, 9, 0)
    graphs = task.graphs(rows, 9)
    loss_sum, weight = graphs["gradient"].module(**batch)
    expected, counted = task.reference_loss(batch)
    assert weight == counted == (rows if rows == 2 else rows - 1)
    assert loss_sum.item() == pytest.approx(expected.item(), rel=1e-5)
    *sums, logits = graphs["eval"].module(**batch)
    assert torch.equal(torch.stack(sums), torch.stack([loss_sum, weight]))
    assert logits.shape == (rows, 3)


def test_what_serves_takes_no_labels_and_answers_as_the_model(task):
    (feeds,) = task.inference_batches(4, 9, 1)
    graphs = task.graphs(4, 9)
    assert graphs["infer"] == Part(list(feeds), ["logits"], of="eval")
    assert "labels" not in feeds
    given = dict(zip(graphs["eval"].outputs, graphs["eval"].module(**feeds, labels=torch.zeros(4).long()), strict=True))
    assert torch.equal(given["logits"], task.inference_reference(feeds)["logits"])


def test_every_tensor_of_a_batch_has_its_axes_named(task):
    for name in ("gradient", "eval"):
        traced = task.graphs(3, 9)[name]
        assert [given for given, _ in traced.inputs] == list(traced.batch), name
        for (_, axes), tensor in zip(traced.inputs, traced.batch.values(), strict=True):
            assert len(axes) == tensor.ndim
            assert axes[0] == "batch"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_labels": 1}, r"^m: 1 label\(s\); classification needs at least 2$"),
        (
            {"num_labels": 2, "problem_type": "regression"},
            "problem_type is regression; only single_label_cl",
        ),
        ({"num_labels": 2, "problem_type": "multi_label_classification"}, "problem_type is multi_label_classification"),
    ],
)
def test_another_kind_of_head_is_refused(settings, message):
    with pytest.raises(UnsupportedModel, match=message):
        TextClassification.check_config(BertConfig(**settings), "m")


def test_a_head_of_classes_is_taken():
    TextClassification.check_config(BertConfig(num_labels=2), "m")
    TextClassification.check_config(BertConfig(num_labels=2, problem_type="single_label_classification"), "m")


def test_noise_has_a_label_of_the_bundles_or_none():
    described, rng = manifest(labels=("a", "b", "c")), np.random.default_rng(0)
    drawn = [int(TextClassification.noise_labels(rng, described, None, masked=False)["labels"]) for _ in range(50)]
    assert set(drawn) == {0, 1, 2}
    assert TextClassification.noise_labels(rng, described, None, masked=True)["labels"] == IGNORE_INDEX
