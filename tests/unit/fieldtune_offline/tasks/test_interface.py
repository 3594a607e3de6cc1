"""What every task checks, and the noise that texts are compared on."""

import pytest
import torch
from torch import nn
from transformers import BertConfig

from fieldtune.errors import UnsupportedModel
from fieldtune_offline.tasks.interface import masked_text
from fieldtune_offline.tasks.text_classification import TextClassification
from fieldtune_offline.tasks.text_generation import TextGeneration


class Model(nn.Module):
    config = BertConfig(vocab_size=7)


def test_labels_are_in_the_order_of_the_logits_whatever_the_files_order():
    config = BertConfig(id2label={2: "c", 0: "a", 1: "b"})
    assert TextClassification.labels_of(config) == ("a", "b", "c")
    assert TextGeneration.labels_of(config) == ()


def test_labels_that_cannot_be_are_refused_by_name():
    TextClassification.check_labels(("a", "b"))
    TextGeneration.check_labels(())
    with pytest.raises(UnsupportedModel, match=r"^labels named more than once: a, b$"):
        TextClassification.check_labels(["b", "a", "b", "a", "c"])
    with pytest.raises(UnsupportedModel, match="labels a for text-generation, which has no classes; leave them out"):
        TextGeneration.check_labels(("a",))


@pytest.mark.parametrize(("batch", "sequence"), [(1, 2), (4, 9), (3, 1)])
def test_every_other_text_is_padded_on_the_right_and_none_is_empty(batch, sequence):
    found = masked_text(Model(), batch, sequence, 0)
    ids, mask = found["input_ids"], found["attention_mask"]
    assert ids.shape == mask.shape == (batch, sequence)
    assert ids.dtype == mask.dtype == torch.int64
    assert 0 <= ids.min() <= ids.max() < 7
    assert torch.equal(mask, mask.sort(dim=1, descending=True).values)
    lengths = mask.sum(1)
    assert torch.all(lengths[1::2] == sequence)
    if sequence > 1:
        assert torch.all((lengths[::2] >= 1) & (lengths[::2] < sequence))


def test_the_same_seed_is_the_same_text():
    first, again, other = (masked_text(Model(), 2, 9, seed)["input_ids"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
