import collections

import numpy as np
import pytest

from fieldtune.errors import FieldtuneError
from fieldtune.serving.sampling import draw, likeliest, penalize, softmax, token_probabilities

LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15], np.float64)).astype(np.float32)


class _Uniform:
    """A generator whose uniform numbers are known."""

    def __init__(self, value):
        self.value = value

    def random(self):
        return self.value


def test_softmax_of_large_logits_is_exact_in_float64():
    np.testing.assert_allclose(
        softmax(np.float32([[1000, 1001], [-1e30, 0]])), [[1 / (1 + np.e), np.e / (1 + np.e)], [0, 1]]
    )
    assert softmax(np.float32([1, 2])).dtype == np.float64


@pytest.mark.parametrize("function", [softmax, likeliest, lambda x: token_probabilities(x, temperature=1.0, top_k=1)])
def test_logits_that_are_not_numbers_are_refused(function):
    with pytest.raises(FieldtuneError, match="logits are not numbers"):
        function(np.float32([0, np.nan, 1]))


def test_the_likeliest_of_equals_is_the_first():
    assert likeliest(np.float32([1, 3, 3, 2])) == 1


def test_temperature_raises_probabilities_to_its_inverse():
    np.testing.assert_allclose(token_probabilities(LOGITS, temperature=1.0), [0.1, 0.4, 0.05, 0.3, 0.15], rtol=1e-6)
    squares = np.array([0.01, 0.16, 0.0025, 0.09, 0.0225])
    np.testing.assert_allclose(token_probabilities(LOGITS, temperature=0.5), squares / squares.sum(), rtol=1e-6)


def test_a_tiny_temperature_takes_the_likeliest():
    np.testing.assert_array_equal(token_probabilities(LOGITS, temperature=1e-9), [0, 1, 0, 0, 0])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"top_k": 1}, [0, 1, 0, 0, 0]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 9}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"top_p": 0.01}, [0, 1, 0, 0, 0]),
        ({"top_p": 0.6}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.75}, [0, 40 / 85, 0, 30 / 85, 15 / 85]),
        # Among the two likeliest the first has 4/7 = 0.571: less than 0.6, more than 0.5.
        ({"top_k": 2, "top_p": 0.6}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 2, "top_p": 0.5}, [0, 1, 0, 0, 0]),
    ],
)
def test_top_k_and_top_p_leave_the_likeliest(options, expected):
    np.testing.assert_allclose(token_probabilities(LOGITS, temperature=1.0, **options), expected, rtol=1e-6)


def test_of_equals_the_smaller_ids_stay():
    np.testing.assert_allclose(token_probabilities(np.zeros(4), temperature=1.0, top_k=2), [0.5, 0.5, 0, 0])


def test_a_draw_inverts_the_cumulative_sum():
    probabilities = np.array([0.0, 0.25, 0.0, 0.5, 0.25, 0.0])
    drawn = [draw(probabilities, _Uniform(value)) for value in (0.0, 0.2499, 0.25, 0.7499, 0.75, np.nextafter(1, 0))]
    assert drawn == [1, 1, 3, 3, 4, 4]


def test_draws_come_as_often_as_their_probabilities_say():
    probabilities = token_probabilities(LOGITS, temperature=1.0, top_k=3)
    rng = np.random.Generator(np.random.PCG64(0))
    counts = collections.Counter(draw(probabilities, rng) for _ in range(20_000))
    assert set(counts) == {1, 3, 4}
    # Five standard deviations of a binomial with 20,000 trials are at most 0.018.
    for token, count in counts.items():
        assert abs(count / 20_000 - probabilities[token]) < 0.018


def test_equal_seeds_draw_equal_tokens():
    probabilities = softmax(np.linspace(-1, 1, 50))

    def drawn(seed):
        rng = np.random.Generator(np.random.PCG64(seed))
        return [draw(probabilities, rng) for _ in range(20)]

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)


def test_the_penalty_makes_seen_tokens_less_likely_whatever_their_sign():
    logits = np.float32([2, -2, 3, -3])
    np.testing.assert_allclose(penalize(logits, {0, 1}, 2.0), [1, -4, 3, -3])
    np.testing.assert_array_equal(penalize(logits, {0, 1}, 1.0), logits)
    np.testing.assert_array_equal(logits, np.float32([2, -2, 3, -3]))
