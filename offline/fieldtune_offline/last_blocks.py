"""Adapters in the last blocks only: which targeted modules lie in the last N blocks of the model, or behind them."""

import re
from collections.abc import Sequence

from torch import nn

from fieldtune.errors import UnsupportedModel

_BLOCK = re.compile(r"^(?P<container>.*?[^.\d])\.(?P<index>\d+)(?:\.|$)")
"""The outermost numbered child of a path: "encoder.layer.5.attention.query" is in block 5 of "encoder.layer"."""


def in_last_blocks(model: nn.Module, targeted: Sequence[str], count: int) -> list[str]:
    """Return the targeted modules that lie in the last blocks or behind them, in their order.

    Args:
        model: the base.
        targeted: names of its modules.
        count: how many blocks, from the end.

    Raises:
        UnsupportedModel: the targeted modules lie in no blocks or in several sequences of them, or none is left.
    """
    places = {name: match for name in targeted if (match := _BLOCK.match(name))}
    containers = sorted({match["container"] for match in places.values()})
    if len(containers) != 1:
        found = f"in {', '.join(containers)}" if containers else "in no numbered blocks"
        raise UnsupportedModel(
            f"the last {count} block(s) of what? The targeted modules lie {found}; name the modules of the last blocks "
            "themselves (--target-modules), with --split auto"
        )
    blocks = len(list(model.get_submodule(containers[0]).children()))
    if count >= blocks:
        raise UnsupportedModel(f"{containers[0]} has {blocks} blocks; --split {count} would leave none of them frozen")
    names = [name for name, _ in model.named_modules()]
    start = names.index(containers[0])
    kept = [
        name
        for name in targeted
        if (int(places[name]["index"]) >= blocks - count if name in places else names.index(name) > start)
    ]
    if not kept:
        raise UnsupportedModel(f"none of the targeted modules lies in the last {count} of {blocks} blocks")
    return kept
