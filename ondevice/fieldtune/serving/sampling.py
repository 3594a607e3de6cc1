"""Logits into probabilities and tokens, in float64; every chance comes from the generator that is passed in."""

from collections.abc import Collection
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fieldtune.errors import FieldtuneError

DoubleArray: TypeAlias = npt.NDArray[np.float64]


def softmax(logits: npt.ArrayLike) -> DoubleArray:
    """Return exp(x) / Σ exp(x) over the last axis, float64, of the logits' shape; large logits do not overflow.

    Raises:
        FieldtuneError: a logit is not a number.
    """
    values = _checked(logits)
    powers: DoubleArray = np.exp(values - values.max(axis=-1, keepdims=True))
    total: DoubleArray = powers.sum(axis=-1, keepdims=True)
    powers /= total
    return powers


def penalize(logits: npt.ArrayLike, seen: Collection[int], penalty: float) -> DoubleArray:
    """Return logits, float64, with those of the tokens seen divided by the penalty, or multiplied where negative.

    Keskar et al. 2019 (CTRL), §4.1, with the sign rule of transformers' RepetitionPenaltyLogitsProcessor.

    Args:
        logits: shape (vocabulary,).
        seen: token ids of the prompt and the answer so far.
        penalty: 1 changes nothing.
    """
    values = np.array(logits, np.float64)
    if penalty != 1 and seen:
        ids = np.fromiter(seen, np.int64, len(seen))
        old = values[ids]
        values[ids] = np.where(old < 0, old * penalty, old / penalty)
    return values


def token_probabilities(
    logits: npt.ArrayLike, *, temperature: float, top_k: int | None = None, top_p: float = 1.0
) -> DoubleArray:
    """Return what each token is drawn with: float64, shape (vocabulary,), sum 1, zero for those left out.

    Temperature first, then the ``top_k`` likeliest, then the fewest of those whose probabilities reach ``top_p``
    (nucleus sampling: Holtzman et al. 2020, §3.1), as transformers orders them. Of equals the smaller ids stay.

    Args:
        logits: shape (vocabulary,).
        temperature: above 0; below 1 it favours the likelier tokens.
        top_k: at least 1; None keeps all.
        top_p: above 0 and at most 1, which keeps all.

    Raises:
        FieldtuneError: a logit is not a number.
    """
    values = _checked(logits) / temperature
    if top_k is None and top_p >= 1:
        return softmax(values)
    order = np.argsort(-values, kind="stable")[:top_k]
    likeliest = softmax(values[order])
    if top_p < 1:
        # A token stays as long as those before it do not reach top_p, so the first always does.
        before = np.cumsum(likeliest) - likeliest
        order, likeliest = order[before < top_p], likeliest[before < top_p]
    probabilities = np.zeros_like(values)
    probabilities[order] = likeliest / likeliest.sum()
    return probabilities


def draw(probabilities: DoubleArray, rng: np.random.Generator) -> int:
    """Draw an index with the probabilities given, shape (n,), by inverting their cumulative sum.

    One uniform number a draw: ``Generator.choice`` is free to use its stream in another way in a later NumPy.
    """
    possible = np.flatnonzero(probabilities)
    cumulative = np.cumsum(probabilities[possible])
    place = np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
    # The product can round up to the sum itself, one place behind the last.
    return int(possible[min(int(place), len(possible) - 1)])


def likeliest(logits: npt.ArrayLike) -> int:
    """Return the index of the largest logit, shape (n,); of equals the smallest.

    Raises:
        FieldtuneError: a logit is not a number.
    """
    return int(_checked(logits).argmax())


def _checked(logits: npt.ArrayLike) -> DoubleArray:
    values = np.asarray(logits, np.float64)
    if np.isnan(values).any():
        # argmax and softmax would make a confident answer out of it.
        raise FieldtuneError(
            "the model's logits are not numbers (NaN); the adapter is damaged or its training diverged: use another one"
        )
    return values
