"""What is asked of the official artifacts, and how far their answers may be off."""

import numpy as np
import pytest

from builders import image_spec, layout, manifest, parameter, text_spec
from fieldtune.errors import ParityError
from fieldtune_offline.ort_training.probes import Probes

LAYOUT = layout(
    parameter("a", {"rank": 2, "num_embeddings": 3}), parameter("b", {"embedding_dim": 1, "rank": 2})
)  # fmt: skip
THETA = np.arange(8, dtype=np.float32)
GRADIENTS = {"a": np.array([[1, 0, 2], [3, 0, 4]], np.float32), "b": np.array([[5, 6]], np.float32)}


@pytest.fixture
def probes():
    """The function that makes probes of one batch of texts, at loss 2."""

    def make(described=None, gradients=GRADIENTS):
        described = described or manifest(layout=LAYOUT, text=text_spec(pad_token_id=1))
        batch = {"input_ids": np.zeros((3, 5), np.int64), "labels": np.zeros(3, np.int64)}
        return Probes(described, THETA, (batch,), ({"loss": np.float32(2), **gradients},))

    return make


def answers(**changes):
    values = {"loss": np.float32(2), "eval_loss": np.float32(2), **GRADIENTS, **changes}
    return {f"0/{name}": value for name, value in values.items()}


def test_everything_that_is_asked_has_a_name(probes):
    asked = probes().arrays()
    assert list(asked) == ["0/input_ids", "0/labels", "theta/a", "theta/b"]
    np.testing.assert_array_equal(asked["theta/a"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(asked["theta/b"], [[6, 7]])


def test_right_answers_are_figures(probes):
    (record,) = probes().compare(answers(eval_loss=np.float32(2.000002), b=np.array([[5, 6.00006]], np.float32)))
    assert (record.batch, record.sequence) == (3, 5)
    assert record.loss_relative == pytest.approx(1e-6, rel=0.1)
    assert record.gradient_relative == pytest.approx(1e-5, rel=0.1)


def test_every_difference_is_listed(probes):
    with pytest.raises(ParityError) as caught:
        probes().compare(answers(eval_loss=np.float32(2.1), b=np.array([[5, 7]], np.float32)))
    first, *faults = str(caught.value).splitlines()
    assert first == "the official artifacts do not compute what gradient.onnx computes; nothing was written"
    assert faults == [
        "  - batch 3, sequence 5: the gradient of b differs by 1.7e-01 of its largest element",
        "  - batch 3, sequence 5: eval_loss is 2.0999999046325684; gradient.onnx has a loss of 2.0",
    ]


def test_a_token_from_which_nothing_is_learned_is_found_by_its_gradients(probes):
    assert probes().padding() == {"index": 1, "axes": {"a": 1}}
    learning = {**GRADIENTS, "a": np.ones((2, 3), np.float32)}
    assert probes(gradients=learning).padding() == {"index": 1, "axes": {}}
    beyond = manifest(layout=LAYOUT, text=text_spec(pad_token_id=3))
    assert probes(beyond).padding() == {"index": 3, "axes": {}}
    assert probes(manifest(layout=LAYOUT, image=image_spec())).padding() == {"index": 0, "axes": {}}
