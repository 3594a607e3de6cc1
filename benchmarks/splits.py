"""The split bundles that benchmarks share: adapters in the last two blocks, the blocks before them a frozen prefix."""

import dataclasses
from pathlib import Path

from common import asset, bundle

from fieldtune_offline import BuildSpec, MethodSpec


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A model and where it is split.

    Attributes:
        title: for people.
        task: of the bundle.
        target_modules: that get an adapter, in the last blocks alone.
        blocks: that are behind the prefix.
        sequence: tokens of a text, which graphs of a prefix have to fix; None for images.
    """

    title: str
    task: str
    target_modules: tuple[str, ...]
    blocks: int
    sequence: int | None


LABELS = ("negative", "positive")
SPLITS = {
    "efficientnet-lite0": Split(
        title="EfficientNet-Lite0 (4.65 M), last 2 of 16 blocks",
        task="image-classification",
        target_modules=("expand", "project"),
        blocks=2,
        sequence=None,
    ),
    "minilm": Split(
        title="MiniLM (22.7 M), last 2 of 6 blocks, 64 tokens",
        task="text-classification",
        target_modules=("query", "value"),
        blocks=2,
        sequence=64,
    ),
}


def split_bundle(name: str, cache: Path) -> Path:
    """Return the split bundle of a model."""
    split, cache = SPLITS[name], cache.resolve()
    spec = BuildSpec(
        model=str(asset(name, cache)),
        task=split.task,
        labels=LABELS,
        method=MethodSpec(target_modules=split.target_modules),
        split=split.blocks,
        sequence=split.sequence,
        trust_remote_code=True,
        out=cache / "bundles" / f"benchmark-split-{name}",
    )
    return bundle(f"{name}, split", spec)
