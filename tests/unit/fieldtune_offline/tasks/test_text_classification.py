"""Texts with one label each: ids and their mask, filled up with the model's own padding token."""

import torch
from transformers import BertConfig, BertForSequenceClassification

from fieldtune.bundle import IGNORE_INDEX
from fieldtune_offline.tasks.text_classification import TextClassification

CONFIG = BertConfig(
    vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
    max_position_embeddings=32, num_labels=3, pad_token_id=5,
)  # fmt: skip


def test_texts_are_filled_up_with_the_models_padding_token():
    task = TextClassification(BertForSequenceClassification(CONFIG))
    assert dict(task.pads()) == {"labels": IGNORE_INDEX, "input_ids": 5}


def test_what_is_masked_changes_no_answer():
    torch.manual_seed(0)
    task = TextClassification(BertForSequenceClassification(CONFIG).eval())
    batch = task.features(2, 9, 0)
    other = batch["input_ids"].where(batch["attention_mask"] == 1, 7)
    assert not torch.equal(other, batch["input_ids"])
    evaluate, labels = task.loss_module(with_logits=True), torch.tensor([0, 1])
    logits = evaluate(**batch, labels=labels)
    found = evaluate(input_ids=other, attention_mask=batch["attention_mask"], labels=labels)
    torch.testing.assert_close(found, logits)
