"""Adapters in the last blocks only: which modules lie in the last N blocks of the model, or behind them."""

import dataclasses
import re
from collections.abc import Iterable, Sequence

from torch import nn

from fieldtune.errors import UnsupportedModel

_BLOCK = re.compile(r"^(?P<container>.*?[^.\d])\.(?P<index>\d+)(?:\.|$)")
"""The outermost numbered child of a path: "encoder.layer.5.attention.query" is in block 5 of "encoder.layer"."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LastBlocks:
    """The last blocks of a model, and what is behind them.

    Attributes:
        container: name of the module that holds the blocks.
        first: index of the first of the last ones.
        behind: names of the modules that come after the container in the model's order.
    """

    container: str
    first: int
    behind: frozenset[str]

    def among(self, names: Iterable[str]) -> list[str]:
        """Return those of some modules that lie in the last blocks or behind them, in their order."""
        return [name for name in names if self._hold(name)]

    def _hold(self, name: str) -> bool:
        match = _BLOCK.match(name)
        if match and match["container"] == self.container:
            return int(match["index"]) >= self.first
        return name in self.behind


def last_blocks(model: nn.Module, targeted: Sequence[str], count: int) -> LastBlocks:
    """Return the last of the blocks that the targeted modules lie in.

    Args:
        model: the base.
        targeted: names of its modules.
        count: how many blocks, from the end.

    Raises:
        UnsupportedModel: the targeted modules lie in no blocks or in several sequences of them, or none is left.
    """
    containers = sorted({match["container"] for name in targeted if (match := _BLOCK.match(name))})
    if len(containers) != 1:
        where = f"in {', '.join(containers)}" if containers else "in no numbered blocks"
        raise UnsupportedModel(
            f"the last {count} block(s) of what? The targeted modules lie {where}; name the modules of the last blocks "
            "themselves (--target-modules), with --split auto"
        )
    blocks = len(list(model.get_submodule(containers[0]).children()))
    if count >= blocks:
        raise UnsupportedModel(f"{containers[0]} has {blocks} blocks; --split {count} would leave none of them frozen")
    names = [name for name, _ in model.named_modules()]
    behind = frozenset(names[names.index(containers[0]) + 1 :])
    last = LastBlocks(container=containers[0], first=blocks - count, behind=behind)
    if not last.among(targeted):
        raise UnsupportedModel(f"none of the targeted modules lies in the last {count} of {blocks} blocks")
    return last
