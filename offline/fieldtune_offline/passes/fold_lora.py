"""Fold LoRA pairs: take their branches out of a graph, and say what becomes of the weights that they stand beside.

1. The branch of a pair ends at the Add that joins it to the product of its own layer; what read the sum reads the
   product, and what read the size of an axis off the branch reads it off the layer.
2. The product's weight becomes one of its own, named after the module.
3. The bias of a lora_B goes into the product's bias, which is made where there is none.
"""

import dataclasses
from collections.abc import Mapping

import onnx_ir as ir

from fieldtune.bundle import FloatArray, Layout
from fieldtune_offline.passes.adapter_branches import (
    branches,
    bypass,
    output_axis,
    product_of,
    read_elsewhere,
    with_bias,
    with_weight,
)
from fieldtune_offline.passes.merged_tensor import MergedTensor

_LORA_BIAS = ".lora_B.bias"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _PairUpdate:
    """W + (alpha / rank) · B A (Hu et al. 2021, §4.1).

    Attributes:
        a: name of the input that takes A as (in_features, rank); of a convolution (rank, in, height, width).
        b: name of the input that takes B as (rank, out_features), with alpha / rank in it; of a convolution
            (out, rank, 1, 1).
        transposed: whether a matrix is (out_features, in_features), which is A B transposed.
    """

    a: str
    b: str
    transposed: bool

    def __call__(self, value: FloatArray, fed: Mapping[str, FloatArray]) -> FloatArray:
        """Return the updated weight."""
        a, b = fed[self.a], fed[self.b]
        if a.ndim > 2:
            update = b.reshape(b.shape[:2]) @ a.reshape(a.shape[0], -1)
        else:
            update = (a @ b).T if self.transposed else a @ b
        updated: FloatArray = value + update.reshape(value.shape)
        return updated


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _BiasUpdate:
    """b + (alpha / rank) · the bias of lora_B, which is fed with the scale in it."""

    key: str

    def __call__(self, value: FloatArray, fed: Mapping[str, FloatArray]) -> FloatArray:
        """Return the updated bias."""
        updated: FloatArray = value + fed[self.key]
        return updated


def fold_lora(fed: Mapping[str, ir.Value], layout: Layout) -> list[tuple[MergedTensor, ir.Value]]:
    """Take the branches of all pairs out of a forward graph, in place.

    Args:
        fed: its inputs, by name.
        layout: of the bundle.

    Returns:
        Each weight that pairs are folded into, and the value that now stands for it.

    Raises:
        ExportError: a branch of another form than builds make.
    """
    folded: list[tuple[MergedTensor, ir.Value]] = []
    seconds = {p.module: p for p in layout.parameters if p.rank_axis == 1}
    biases = {p.module: p for p in layout.parameters if p.key.endswith(_LORA_BIAS)}
    for first in layout.parameters:
        if first.rank_axis != 0:
            continue
        weights = fold_pair(fed, first.module, first.key, seconds[first.module].key)
        bias = biases.get(first.module)
        folded += weights
        if weights and bias is not None and bias.key in fed:
            products = [node for node, _ in weights[0][1].uses()]
            folded.append(with_bias(products, bias.module, _BiasUpdate(key=bias.key), bias.shape))
    return folded


def fold_pair(fed: Mapping[str, ir.Value], module: str, a: str, b: str) -> list[tuple[MergedTensor, ir.Value]]:
    """Take the branches of one pair out, whose inputs have the names ``a`` and ``b``; return its weight.

    Nothing, where nothing of the graph reads what the module computes.
    """
    joins, sizes = branches(fed[a], module)
    if not joins:
        return []
    products = [product_of(other, module) for _, other in joins]
    for join, other in joins:
        bypass(join, other)
    for node in sizes:
        read_elsewhere(node, [value for product in products for value in (*product.outputs, *product.inputs)])
    transposed = products[0].op_type == "Gemm" and output_axis(products[0]) == 0
    return [with_weight(products, module, _PairUpdate(a=a, b=b, transposed=transposed))]
