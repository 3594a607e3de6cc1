import numpy as np
import pytest

from fieldtune_offline.accelerators.int8.boundary_quality import MOST_DB, probe_accuracies, signal_to_noise_db


def test_the_ratio_is_of_powers_over_all_tensors():
    exact = {"a": np.full((2, 3), 10.0, np.float32), "b": np.zeros((2, 1), np.float32)}
    off = {"a": exact["a"] + 1, "b": exact["b"]}
    assert signal_to_noise_db(exact, off) == pytest.approx(20)
    assert signal_to_noise_db(exact, {"a": exact["a"], "b": exact["b"] + 1}) == pytest.approx(10 * np.log10(300))
    assert signal_to_noise_db(exact, exact) == MOST_DB
    assert signal_to_noise_db({"b": exact["b"]}, {"b": exact["b"] + 1}) == -MOST_DB


def _images(draw, labels):
    """Images of which one channel tells each class, by its mean alone."""
    images = draw.normal(size=(len(labels), 3, 5, 5)).astype(np.float32)
    images[np.arange(len(labels)), labels // 4] += 2
    return images


def test_a_probe_reads_classes_from_the_means_of_channels():
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 400) * 4
    exact = {"boundary_0": _images(draw, labels)}
    before, after, count = probe_accuracies(exact, exact, labels)
    assert count == 200
    assert before == after > 0.95
    noise = draw.normal(0, 2, (400, 3, 1, 1)).astype(np.float32)
    _, worse, _ = probe_accuracies(exact, {"boundary_0": exact["boundary_0"] + noise}, labels)
    assert 0.4 < worse < 0.9


def test_sequences_have_their_channels_last():
    draw = np.random.default_rng(1)
    labels = draw.integers(0, 2, 200)
    tokens = draw.normal(size=(200, 6, 4)).astype(np.float32)
    tokens[:, :, 2] += 2 * labels[:, None]
    rows = {"boundary_0": tokens}
    assert probe_accuracies(rows, rows, labels)[0] > 0.95
    turned = {"boundary_0": np.ascontiguousarray(np.swapaxes(tokens, 1, 2))}
    assert probe_accuracies(turned, turned, labels)[0] < 0.9


def test_classes_in_turn_are_halved_at_random():
    labels = np.arange(100) % 2
    rows = {"boundary_0": labels[:, None].astype(np.float32)}
    assert probe_accuracies(rows, rows, labels)[:2] == (1, 1)


def test_one_example_is_too_few():
    rows = {"boundary_0": np.zeros((1, 2), np.float32)}
    with pytest.raises(ValueError, match="1 labelled examples"):
        probe_accuracies(rows, rows, np.zeros(1, np.int64))
