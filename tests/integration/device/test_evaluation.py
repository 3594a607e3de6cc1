import dataclasses

import numpy as np
import pytest

from fieldtune.adapters.directory import read_adapter
from fieldtune.adapters.tensors import StoredTensor
from fieldtune.errors import InvalidData
from fieldtune.training import TrainConfig, train_adapter
from fieldtune.training.evaluation import evaluate


@pytest.mark.parametrize("name", ["tiny-classifier", "tiny-lm"])
def test_the_batch_size_changes_nothing(name, opened, profile, encoded, reviews, dialogues):
    examples = encoded(name, (reviews if "classifier" in name else dialogues)(11))
    one, many = (evaluate(opened(name), examples, profile, batch_size=size) for size in (1, 7))
    assert one.loss == pytest.approx(many.loss, rel=1e-5)
    rounded = {"loss": 0, "perplexity": None, "seconds": 0}
    assert {**one.to_json(), **rounded} == {**many.to_json(), **rounded}
    assert [figure.name for figure in one.figures] == [figure.name for figure in many.figures]


def test_the_evaluation_agrees_with_the_training_graph(opened, profile, encoded, reviews):
    examples = encoded("tiny-classifier", reviews(9))
    config = TrainConfig(epochs=1, batch_size=9, gradient_accumulation=1)
    report = train_adapter(opened("tiny-classifier"), examples, config, profile, evaluation=examples)
    assert report.before.loss == pytest.approx(report.steps[0].loss, rel=1e-5)


def test_static_graphs_evaluate_the_same(opened, profile, encoded, reviews):
    rows = reviews(10)
    found = [
        evaluate(opened(name), encoded(name, rows, max_length=16), profile)
        for name in ("tiny-classifier", "static-classifier")
    ]
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-5)
    assert found[0].figures == found[1].figures


def test_examples_without_labels_do_not_count(opened, profile, encoded, reviews):
    rows = [{"text": "good film", "label": "positive"}] * 3 + [{"text": "bad film", "label": "negative"}]
    bare = [{**row, "label": None} for row in reviews(4)]
    with_bare, without = (
        evaluate(opened("tiny-classifier"), encoded("tiny-classifier", chosen), profile)
        for chosen in (rows + bare, rows)
    )
    assert (with_bare.labels, with_bare.examples) == (4, 8)
    assert with_bare.loss == pytest.approx(without.loss, rel=1e-5)
    assert with_bare.figure("majority_accuracy") == 0.75
    with pytest.raises(InvalidData, match=r"none of the 4 example\(s\) has a label to evaluate with"):
        evaluate(opened("tiny-classifier"), encoded("tiny-classifier", bare), profile)


def test_an_adapter_of_another_rank_and_alpha_is_evaluated(opened, profile, encoded, reviews):
    bundle = opened("tiny-classifier")
    examples = encoded("tiny-classifier", reviews(20))
    config = TrainConfig(epochs=2, batch_size=4, learning_rate=5e-3)
    adapter = train_adapter(bundle, examples, config, profile).adapter
    doubled = {}
    for key, stored in adapter.tensors.tensors.items():
        values = stored.float32()
        # Rank 8 of which half is unused; alpha is doubled with the rank, so that the scale stays.
        widths = [(0, 4), (0, 0)] if "lora_A" in key else [(0, 0), (0, 4)] if "lora_B" in key else None
        doubled[key] = StoredTensor.from_float32(np.pad(values, widths) if widths else values, "F32")
    wide = dataclasses.replace(
        adapter,
        config={**adapter.config, "r": 8, "lora_alpha": 16},
        tensors=dataclasses.replace(adapter.tensors, tensors=doubled),
    )
    plain, padded = (evaluate(bundle, examples, profile, one) for one in (adapter, wide))
    assert padded.loss == pytest.approx(plain.loss, rel=1e-6)
    initial = evaluate(bundle, examples, profile)
    assert initial.loss == evaluate(bundle, examples, profile, read_adapter(bundle.adapter_path)).loss
    assert initial.loss > plain.loss
