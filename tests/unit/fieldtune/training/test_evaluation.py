"""Loss and figures of an adapter on examples: sums over batches, divided once."""

import math

import numpy as np
import pytest

from builders import CPU, adapter, graph_spec, manifest, profile, tensor_spec, write_bundle
from builders import evaluation as evaluated
from fieldtune.bundle import IGNORE_INDEX
from fieldtune.data.examples import Encoded, EncodedSet
from fieldtune.errors import InvalidData
from fieldtune.runtime.providers import choose_provider
from fieldtune.tasks.interface import Figure
from fieldtune.tasks.table import new_task
from fieldtune.training.batch_source import WholeBatches
from fieldtune.training.evaluation import Evaluation, EvaluationGraph, evaluate_with, other_outputs

pytest.importorskip("onnxruntime")

# Its logits are its two tokens; where the label counts, the loss is the logit of class 0.
EVAL = """eval (int64[batch,2] input_ids, int64[batch] labels) => (
    float loss_sum, float[batch,2] logits, float weight
) {
    logits = Cast<to=1>(input_ids)
    counted = GreaterOrEqual(labels, zero)
    weights = Cast<to=1>(counted)
    weight = ReduceSum<keepdims=0>(weights)
    first = Gather<axis=1>(logits, zero)
    losses = Mul(first, weights)
    loss_sum = ReduceSum<keepdims=0>(losses)
}"""


def example(tokens, label):
    arrays = {"input_ids": np.array(tokens), "labels": np.array(label)}
    return Encoded(arrays=arrays, weight=float(label != IGNORE_INDEX))


ENCODED = EncodedSet(
    examples=(
        example([3, 1], 0),
        example([1, 2], 1),
        example([9, 0], IGNORE_INDEX),
        example([2, 5], 0),
        example([8, 0], IGNORE_INDEX),
    )
)


@pytest.fixture
def bundle(tmp_path, onnx_bytes):
    """The function that writes a bundle of the graph above, at a static or any batch."""

    def make(batch="batch"):
        spec = graph_spec(
            "eval",
            inputs=(
                tensor_spec("input_ids", batch, 2, dtype="int64"),
                tensor_spec("labels", batch, dtype="int64", pad=IGNORE_INDEX),
            ),
            outputs=(tensor_spec("loss_sum"), tensor_spec("logits", batch, 2), tensor_spec("weight")),
        )
        text = EVAL.replace("[batch", f"[{batch}")
        contents = {spec.path: onnx_bytes(text, zero=np.array(0, np.int64)), spec.nodes: b"{}"}
        return write_bundle(tmp_path, manifest(graphs={"eval": spec}), contents)

    return make


@pytest.fixture
def run(bundle):
    """The function that evaluates examples on the bundle's graph."""

    def evaluate(encoded, batch_size, *, batch="batch", ticks=lambda *_: None):
        opened = bundle(batch)
        choice = choose_provider(profile(), [CPU])
        task = new_task(opened.manifest.task, text=opened.manifest.text)
        forward = EvaluationGraph(opened, choice).forward(adapter())
        return evaluate_with(forward, encoded, task, WholeBatches(opened, choice), batch_size, ticks)

    return evaluate


@pytest.mark.parametrize(("batch_size", "batch"), [(1, "batch"), (2, "batch"), (9, "batch"), (9, 3)])
def test_the_loss_is_a_mean_of_labels_however_they_are_batched(run, batch_size, batch):
    found = run(ENCODED, batch_size, batch=batch)
    assert (found.examples, found.labels) == (5, 3)
    assert found.loss == pytest.approx((3 + 1 + 2) / 3)
    assert found.figure("accuracy") == pytest.approx(2 / 3)
    assert found.figure("majority_accuracy") == pytest.approx(2 / 3)
    assert found.figure("f1") is None


def test_every_batch_is_told_those_without_a_label_too(run):
    told = []
    run(ENCODED, 1, ticks=lambda done, total: told.append((done, total)))
    assert told == [(number, 5) for number in range(1, 6)]


def test_examples_without_any_label_are_refused(run):
    with pytest.raises(InvalidData, match=r"none of the 1 example\(s\) has a label to evaluate with"):
        run(EncodedSet(examples=(example([1, 1], IGNORE_INDEX),)), 2)


def test_figures_are_counted_from_what_the_graph_gives_beside_its_sums(bundle):
    assert other_outputs(bundle().manifest) == ("logits",)


def test_figures_are_told_by_name_and_what_is_no_number_is_null():
    assert evaluated(0.5, 0.75).to_json() == {
        "examples": 10,
        "labels": 10,
        "loss": 0.5,
        "accuracy": 0.75,
        "majority_accuracy": 0.6,
        "seconds": 0.5,
    }
    infinite = (Figure(name="perplexity", value=math.inf, better="lower"),)
    found = Evaluation(examples=10, labels=10, loss=800.0, figures=infinite, seconds=0.5).to_json()
    assert found == {"examples": 10, "labels": 10, "loss": 800.0, "perplexity": None, "seconds": 0.5}
