"""What quantizing the prefix cost: the boundary's signal-to-noise ratio, and accuracy before and after."""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Boundary: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
"""Name of a boundary tensor → its values, shape (examples, …)."""
Labels: TypeAlias = npt.NDArray[np.int64]

MOST_DB = 200.0
"""Stands for no difference at all."""
_RIDGE = 1e-2
_TINY = 1e-6


def signal_to_noise_db(exact: Boundary, quantized: Boundary) -> float:
    """Return 10 · log10 (power of the exact tensors / power of the difference), over all tensors, at most MOST_DB."""
    signal = sum(float(np.sum(np.square(array, dtype=np.float64))) for array in exact.values())
    noise = sum(float(np.sum(np.square(quantized[name] - exact[name], dtype=np.float64))) for name in exact)
    if noise == 0 or signal == 0:
        return MOST_DB if noise == 0 else -MOST_DB
    return min(10 * float(np.log10(signal / noise)), MOST_DB)


def probe_accuracies(exact: Boundary, quantized: Boundary, labels: Labels) -> tuple[float, float, int]:
    """Return how well a linear classifier on the boundary does: ridge regression on one-hot labels, in closed form.

    It is fitted to the exact features of half of the examples, drawn at random, and tried on the rest, exact and
    quantized.

    Args:
        exact: of the float32 prefix.
        quantized: of the quantized one, in the same order.
        labels: int64, shape (examples,).

    Returns:
        Accuracy with exact and with quantized features, 0 to 1, and the number of examples that it was tried on.

    Raises:
        ValueError: fewer than two examples.
    """
    if len(labels) < 2:
        raise ValueError(f"{len(labels)} labelled examples; a probe needs at least 2")
    features, changed = _features(exact), _features(quantized)
    order = np.random.default_rng(0).permutation(len(labels))
    fitted, tried = order[: len(order) // 2], order[len(order) // 2 :]
    mean, spread = features[fitted].mean(axis=0), features[fitted].std(axis=0) + _TINY
    known = np.unique(labels)
    wanted = (labels[fitted, None] == known).astype(np.float64)
    weights = _ridge(_with_one((features[fitted] - mean) / spread), wanted)

    def accuracy(values: npt.NDArray[np.float64]) -> float:
        chosen = known[np.argmax(_with_one((values - mean) / spread) @ weights, axis=1)]
        return float(np.mean(chosen == labels[tried]))

    return accuracy(features[tried]), accuracy(changed[tried]), len(labels[tried])


def _features(boundary: Boundary) -> npt.NDArray[np.float64]:
    """Return means over all but the batch and channel axes, shape (examples, channels of all tensors).

    The channels of an image are its second axis, as ONNX has them, those of all else the last one.
    """
    parts = []
    for array in boundary.values():
        channel = 1 if array.ndim == 4 else array.ndim - 1
        others = tuple(axis for axis in range(1, array.ndim) if axis != channel)
        parts.append(array.mean(axis=others, dtype=np.float64).reshape(len(array), -1))
    return np.concatenate(parts, axis=1)


def _with_one(features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)


def _ridge(features: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return argmin ‖wanted - features · W‖² + ridge · examples · ‖W‖²."""
    penalty = np.eye(features.shape[1]) * (_RIDGE * len(features))
    return np.asarray(np.linalg.solve(features.T @ features + penalty, features.T @ wanted))
