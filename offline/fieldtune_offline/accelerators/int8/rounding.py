"""Weights on a grid, chosen so that an operator's result changes least, from samples of what it reads.

For one operator with G independent groups, X holds samples of what each group reads, Y what it should give: a
convolution in one group and a product have G = 1, a depthwise convolution one group for each channel.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fieldtune_offline.accelerators.int8.positions import saturated

Array: TypeAlias = npt.NDArray[np.float64]
Samples: TypeAlias = npt.NDArray[np.float32]

RIDGE = 1e-2
"""Pull of refitted weights towards the given ones, relative to the mean power of what is read."""
_DAMPING = 1e-2
"""Added to the diagonal of the second moments, relative to its mean, as GPTQ's authors do."""
_TINY = 1e-12


def fit_weights(read: Samples, wanted: Samples, weights: Array, position: int, *, biased: bool) -> tuple[Array, Array]:
    """Return weights on the grid of a position, and biases, with which an operator gives what it should.

    1. The weights are refitted to what is read now: least squares, with a pull towards the given ones.
    2. They are rounded one input after another, and what each rounding changes is made up for by the inputs that are
       still to come (Frantar et al. 2022, GPTQ, §3.3).
    3. The biases take up the mean of what is left (Nagel et al. 2019, §4.2).

    Args:
        read: X, shape (groups, samples, inputs).
        wanted: Y, shape (groups, samples, outputs).
        weights: shape (groups, inputs, outputs).
        position: of the weights.
        biased: whether the operator has biases; without, means are fitted by the weights alone.

    Returns:
        Weights, shape (groups, inputs, outputs), multiples of 2^−position; biases, shape (groups, outputs).
    """
    mean_read, mean_wanted = (_mean(samples) if biased else np.zeros_like(samples[:, :1]) for samples in (read, wanted))
    centred = read - mean_read
    moments = _product(centred, centred)
    missing = _product(centred, wanted - mean_wanted - centred @ weights.astype(np.float32))
    ridge = np.eye(moments.shape[1]) * (RIDGE * _power(moments) + _TINY)[:, None, None]
    # argmin ‖Y - X·W‖² / samples + ridge · ‖W - weights‖²
    refitted = weights + np.linalg.solve(moments + ridge, missing)
    rounded = _rounded(refitted, moments, position)
    return rounded, (mean_wanted - mean_read @ rounded)[:, 0].astype(np.float64)


def _mean(samples: Samples) -> Samples:
    return np.asarray(samples.mean(axis=1, keepdims=True, dtype=np.float64), np.float32)


def _product(left: Samples, right: Samples) -> Array:
    """Return leftᵀ · right / samples; summed in float32, whose error is far below what rounding the weights costs."""
    total = np.swapaxes(left, 1, 2) @ right
    return np.asarray(total / np.float64(left.shape[1]), np.float64)


def _rounded(weights: Array, moments: Array, position: int) -> Array:
    """Return the weights on the grid; the inputs with the most power are rounded first."""
    groups, count, _ = weights.shape
    damping = np.eye(count) * (_DAMPING * _power(moments) + _TINY)[:, None, None]
    rows = np.arange(groups)[:, None]
    order = np.argsort(-_diagonal(moments), axis=1, kind="stable")
    pending = weights[rows, order]
    damped = (moments + damping)[rows[:, :, None], order[:, :, None], order[:, None, :]]
    # Row k of the inverse's Cholesky factor says how the weights behind k make up for a change of weight k.
    factor = np.swapaxes(np.linalg.cholesky(np.linalg.inv(damped)), 1, 2)
    rounded = np.empty_like(pending)
    for k in range(count):
        rounded[:, k] = np.ldexp(saturated(np.ldexp(pending[:, k], position)), -position)
        error = (pending[:, k] - rounded[:, k]) / factor[:, k, k, None]
        pending[:, k + 1 :] -= factor[:, k, k + 1 :, None] * error[:, None, :]
    back = np.empty_like(rounded)
    back[rows, order] = rounded
    return back


def _diagonal(moments: Array) -> Array:
    return np.asarray(np.einsum("gkk->gk", moments))


def _power(moments: Array) -> Array:
    return np.asarray(_diagonal(moments).mean(axis=1))
