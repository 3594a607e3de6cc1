"""Fold MiSS matrices: W plus what its matrix makes of sums of inputs, taken out of a graph as a low-rank pair."""

from collections.abc import Mapping

import onnx_ir as ir

from fieldtune.adapters.methods.miss import PATTERN
from fieldtune.bundle import Layout
from fieldtune_offline.passes.fold_lora import fold_pair
from fieldtune_offline.passes.merged_tensor import MergedTensor


def fold_miss(fed: Mapping[str, ir.Value], layout: Layout) -> list[tuple[MergedTensor, ir.Value]]:
    """Take the branches of all layers out of a forward graph, in place; as ``fold_lora``.

    The pattern of a layer's sums is A of its pair, and is fed (Kang and Yin 2024).
    """
    folded: list[tuple[MergedTensor, ir.Value]] = []
    for p in layout.parameters:
        if p.rank_axis == 0:
            pattern = f"{p.key.rpartition('.')[0]}.{PATTERN}"
            folded += fold_pair(fed, p.module, pattern, p.key)
    return folded
