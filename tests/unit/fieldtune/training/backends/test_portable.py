"""Sums of microbatches, divided once and applied: on a gradient graph that can be followed by hand."""

import numpy as np
import pytest

from builders import CPU, graph_spec, layout, manifest, parameter, profile, tensor_spec, write_bundle
from fieldtune.runtime.providers import choose_provider
from fieldtune.training.backends.optimizers import SGDConfig
from fieldtune.training.backends.portable import PortableBackend

pytest.importorskip("onnxruntime")

# The loss of an example is c · |theta|² / 2, its gradient c · theta.
GRADIENT = """gradient (float[batch] c, float[2] theta) => (float loss_sum, float weight, float[2] grad_sum) {
    sum = ReduceSum<keepdims=0>(c)
    squares = Mul(theta, theta) square = ReduceSum<keepdims=0>(squares) half = Mul(square, halves)
    loss_sum = Mul(half, sum)
    shape = Shape(c) counts = Cast<to=1>(shape) weight = ReduceSum<keepdims=0>(counts)
    grad_sum = Mul(theta, sum)
}"""
THETA = np.array([3, -4], np.float32)


@pytest.fixture
def backend(tmp_path, onnx_bytes):
    """The function that makes a backend at theta = (3, -4), with SGD."""
    spec = graph_spec("gradient", inputs=(tensor_spec("c", "batch"), tensor_spec("theta", 2)))
    described = manifest(graphs={"gradient": spec}, layout=layout(parameter("a", {"out": 2})))
    data = onnx_bytes(GRADIENT, halves=np.array(0.5, np.float32))
    bundle = write_bundle(tmp_path, described, {spec.path: data, spec.nodes: b"{}"})
    config = SGDConfig(momentum=0.0, weight_decay=0.0)
    return lambda max_norm=0.0: PortableBackend(bundle, choose_provider(profile(), [CPU]), THETA, config, max_norm)


def batch(*factors):
    return {"c": np.array(factors, np.float32)}


def test_microbatches_add_up_to_one_batch(backend):
    parts, whole = backend(), backend()
    assert parts.accumulate(batch(1.0), 1.0) == (12.5, 1.0)
    assert parts.accumulate(batch(0.5, 0.0), 2.0) == (6.25, 2.0)
    whole.accumulate(batch(1.0, 0.5, 0.0), 3.0)
    # The mean gradient is theta · 1.5 / 3.
    assert parts.update(0.1) == whole.update(0.1) == pytest.approx(2.5)
    np.testing.assert_array_equal(parts.theta(), whole.theta())
    np.testing.assert_allclose(parts.theta(), THETA * (1 - 0.1 * 0.5), rtol=1e-6)


def test_nothing_is_held_after_an_update_or_a_new_theta(backend):
    made = backend()
    made.accumulate(batch(1.0), 1.0)
    made.update(0.1)
    with pytest.raises(ValueError, match="no label has been accumulated"):
        made.update(0.1)
    made.accumulate(batch(1.0), 1.0)
    made.load_theta(np.array([1, 1], np.float32))
    with pytest.raises(ValueError, match="no label has been accumulated"):
        made.update(0.1)
    np.testing.assert_array_equal(made.theta(), [1, 1])


def test_the_norm_is_told_as_it_was_and_the_step_is_clipped(backend):
    made = backend(max_norm=1.0)
    made.accumulate(batch(1.0), 1.0)
    assert made.update(1.0) == pytest.approx(5.0)
    np.testing.assert_allclose(made.theta(), THETA - [0.6, -0.8], rtol=1e-5)


def test_a_gradient_that_is_no_number_changes_nothing(backend):
    made = backend()
    made.accumulate(batch(np.inf), 1.0)
    assert not np.isfinite(made.update(0.1))
    np.testing.assert_array_equal(made.theta(), THETA)


def test_theta_is_a_copy(backend):
    made = backend()
    made.theta()[:] = 0
    np.testing.assert_array_equal(made.theta(), THETA)
