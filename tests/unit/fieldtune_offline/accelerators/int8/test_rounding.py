import numpy as np
import pytest

from fieldtune_offline.accelerators.int8.rounding import fit_weights


def nearest(weights, position):
    return np.clip(np.rint(weights * 2.0**position), -128, 127) * 2.0**-position


def correlated(draw, samples, inputs):
    """Samples whose inputs share most of their power, as pixels beside each other do."""
    shared = draw.normal(size=(samples, 1))
    return (shared + 0.3 * draw.normal(size=(samples, inputs)) + 1).astype(np.float32)


@pytest.mark.parametrize("biased", [True, False])
def test_fitted_weights_lie_on_the_grid_and_beat_the_nearest(biased):
    draw = np.random.default_rng(0)
    read = correlated(draw, 4000, 24)[None]
    weights = draw.normal(0, 0.3, (1, 24, 8))
    wanted = (read @ weights).astype(np.float32)
    found, biases = fit_weights(read, wanted, weights, 4, biased=biased)
    assert np.array_equal(found, nearest(found, 4))
    assert biases.shape == (1, 8)
    error = np.mean(np.square(read @ found + biases[:, None] - wanted))
    plain = np.mean(np.square(read @ nearest(weights, 4) - wanted))
    assert error < plain / 5
    if not biased:
        assert np.all(biases == 0)
    assert np.max(np.abs(found - weights)) < 0.5


def test_biases_take_up_the_mean():
    draw = np.random.default_rng(1)
    read = draw.normal(3, 1, (1, 2000, 5)).astype(np.float32)
    weights = draw.normal(size=(1, 5, 2))
    wanted = (read @ weights + [[[7.0, -2.0]]]).astype(np.float32)
    found, biases = fit_weights(read, wanted, weights, 2, biased=True)
    left = read @ found + biases[:, None] - wanted
    np.testing.assert_allclose(left.mean(axis=1), 0, atol=1e-5)


def test_errors_of_what_is_read_are_made_up_for():
    draw = np.random.default_rng(2)
    exact = draw.normal(size=(1, 4000, 6)).astype(np.float32)
    read = 0.5 * exact  # the operators before lost half
    weights = draw.normal(0, 0.2, (1, 6, 3))
    found, _ = fit_weights(read, (exact @ weights).astype(np.float32), weights, 6, biased=True)
    np.testing.assert_allclose(found, 2 * weights, atol=0.03)


def test_groups_are_fitted_each_for_itself():
    draw = np.random.default_rng(3)
    read = draw.normal(1, 1, (3, 1000, 9)).astype(np.float32)
    weights = draw.normal(size=(3, 9, 1))
    wanted = (read @ weights).astype(np.float32)
    found, biases = fit_weights(read, wanted, weights, 5, biased=True)
    for group in range(3):
        part = slice(group, group + 1)
        alone = fit_weights(read[part], wanted[part], weights[part], 5, biased=True)
        np.testing.assert_array_equal(alone[0], found[part])
        np.testing.assert_allclose(alone[1], biases[part], rtol=1e-6)


def test_inputs_that_are_always_zero_do_no_harm():
    read = np.zeros((2, 500, 4), np.float32)
    read[0, :, 1] = np.random.default_rng(4).normal(size=500)
    weights = np.full((2, 4, 1), 0.4)
    found, biases = fit_weights(read, (read @ weights).astype(np.float32), weights, 3, biased=True)
    assert np.all(np.isfinite(found))
    np.testing.assert_array_equal(found[1], np.full((4, 1), 0.375))
    np.testing.assert_allclose(biases, 0, atol=1e-3)
