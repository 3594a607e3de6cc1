import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForQuestionAnswering, DistilBertConfig, DistilBertForQuestionAnswering

from fieldtune.bundle.manifest import IGNORE_INDEX
from fieldtune.errors import UnsupportedModel
from fieldtune_offline.tasks.interface import Part
from fieldtune_offline.tasks.question_answering import QuestionAnswering
from fieldtune_offline.tasks.table import task_class

SIZES = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 32, "initializer_range": 0.3, "pad_token_id": 0,
}  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(0)
    return BertForQuestionAnswering(BertConfig(**SIZES)).eval()


def test_the_table_knows_it():
    assert task_class("question-answering") is QuestionAnswering


def test_the_head_has_two_logits():
    QuestionAnswering.check_config(BertConfig(), "m")
    with pytest.raises(UnsupportedModel, match="m: 3 labels; question answering has 2 logits a token"):
        QuestionAnswering.check_config(BertConfig(num_labels=3), "m")
    with pytest.raises(UnsupportedModel, match="labels yes, no for question-answering, which has no classes"):
        QuestionAnswering.check_labels(("yes", "no"))


def test_a_batch_has_spans_before_the_padding(model):
    batch = QuestionAnswering(model).batch(4, 9, 0)
    lengths, starts, ends = batch["attention_mask"].sum(1), batch["start_positions"], batch["end_positions"]
    assert list(batch) == ["input_ids", "attention_mask", "token_type_ids", "start_positions", "end_positions"]
    assert starts[-1] == ends[-1] == IGNORE_INDEX
    assert torch.all((starts[:-1] >= 0) & (starts[:-1] <= ends[:-1]) & (ends[:-1] < lengths[:-1]))
    assert batch["token_type_ids"].unique().tolist() == [0, 1]


@pytest.mark.parametrize("rows", [2, 4])
def test_the_summed_loss_is_that_of_transformers(model, rows):
    task = QuestionAnswering(model)
    batch = task.batch(rows, 9, 0)
    loss_sum, weight = task.graphs(rows, 9)["gradient"].module(**batch)
    expected, counted = task.reference_loss(batch)
    assert weight == counted == (rows if rows == 2 else rows - 1)
    assert loss_sum.item() == pytest.approx(expected.item(), rel=1e-6)
    # The rows that count, alone: what transformers itself returns for them.
    kept = {name: tensor[: int(weight)] for name, tensor in batch.items()}
    assert loss_sum.item() == pytest.approx(model(**kept).loss.item() * weight.item(), rel=1e-6)


def test_what_evaluates_and_serves_gives_both_logits(model):
    task = QuestionAnswering(model)
    graphs = task.graphs(3, 9)
    features = ["input_ids", "attention_mask", "token_type_ids"]
    assert graphs["infer"] == Part(features, ("start_logits", "end_logits"), of="eval")
    assert graphs["eval"].outputs == ("loss_sum", "weight", "start_logits", "end_logits")
    batch = task.batch(3, 9, 1)
    expected = task.inference_reference({name: batch[name] for name in features})
    found = dict(zip(graphs["eval"].outputs, graphs["eval"].module(**batch), strict=True))
    for name in graphs["infer"].outputs:
        assert torch.equal(found[name], expected[name])
    assert graphs["gradient"].pads == {"input_ids": 0, "start_positions": IGNORE_INDEX, "end_positions": IGNORE_INDEX}


def test_token_types_go_in_where_the_model_tells_them_apart():
    one = BertForQuestionAnswering(BertConfig(**SIZES, type_vocab_size=1))
    none = DistilBertForQuestionAnswering(DistilBertConfig(vocab_size=40, dim=16, n_layers=1, n_heads=2, hidden_dim=16))
    for model in (one, none):
        model.config.pad_token_id = 0
        assert "token_type_ids" not in QuestionAnswering(model).batch(2, 9, 0)


def test_noise_is_a_span():
    rng = np.random.default_rng(0)
    for _ in range(20):
        found = QuestionAnswering.noise_labels(rng, None, np.arange(5), masked=False)
        assert 0 <= found["start_positions"] <= found["end_positions"] < 5
        assert found["start_positions"].dtype == np.int64
    masked = QuestionAnswering.noise_labels(rng, None, np.arange(5), masked=True)
    assert masked == {"start_positions": IGNORE_INDEX, "end_positions": IGNORE_INDEX}
