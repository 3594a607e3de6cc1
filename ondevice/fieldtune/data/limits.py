"""How large a batch and how long a text may be: as asked for, else as the graph, the profile and the model allow."""

from collections.abc import Sequence

from fieldtune.bundle import GraphSpec, TensorSpec, TextSpec
from fieldtune.data.batches import static_shape
from fieldtune.hardware import HardwareProfile

CPU_BATCH = 4
"""Samples in a run of a prefix that takes any number. Kernels may sum in another order for another number of rows, so
the number is fixed: then a sample's bits depend on the sample alone. Four cost as little each as eight, and waste fewer
rows."""


def batch_limit(asked: int | None, profile: HardwareProfile, inputs: Sequence[TensorSpec]) -> int:
    """Return how many examples go into a batch: the static graph's number, unless fewer are asked for.

    Args:
        asked: by the user.
        profile: decides where neither user nor graph does.
        inputs: the graph's.

    Raises:
        ValueError: if more are asked for than the static graph takes.
    """
    static, _ = static_shape(inputs)
    return _limit("batch_size", asked, static) or profile.training.batch_size


def prefix_batch(prefix: GraphSpec) -> int:
    """Return how many samples go into a run of a frozen prefix: the static graph's number, else ``CPU_BATCH``."""
    first = prefix.inputs[0].shape[0]
    return first if isinstance(first, int) else CPU_BATCH


def length_limit(
    asked: int | None, profile: HardwareProfile, inputs: Sequence[TensorSpec], text: TextSpec | None
) -> int | None:
    """Return how many tokens a text may have; None where there are images instead.

    Args:
        asked: by the user; checked against the model where texts are encoded.
        profile: may say less than the model takes.
        inputs: the graph's.
        text: the bundle's, if it takes texts.

    Raises:
        ValueError: if more are asked for than the static graph takes, or any of images.
    """
    if text is None:
        if asked is not None:
            raise ValueError(f"max_length is {asked}; the bundle takes images, which have no length in tokens")
        return None
    _, static = static_shape(inputs)
    limits = (static, profile.training.max_length, text.max_length)
    return _limit("max_length", asked, static) if asked else min(limit for limit in limits if limit)


def _limit(name: str, asked: int | None, static: int | None) -> int:
    """Return what is asked for, else the static graph's own size, else 0."""
    if asked is not None and static is not None and asked > static:
        raise ValueError(f"{name} is {asked}; the bundle's graphs are static and take at most {static}")
    return asked or static or 0
