"""Fold factors: take the multiplications of outputs, or of inputs, out of a graph and put them into weights.

1. What read the product of factors and a value reads the value.
2. The weight's rows, or its columns, are multiplied instead; it becomes one of its own, named after the module.
3. Factors of outputs that come after the bias multiply that, too (IA³). Where they come before it (DoRA), it goes into
   the layer's own product, as it would be without an adapter.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from fieldtune.bundle import FloatArray, Layout, ParameterSpec
from fieldtune.errors import ExportError
from fieldtune_offline.passes.adapter_branches import (
    bias_of,
    bypass,
    factors,
    output_axis,
    product_of,
    products_with,
    set_bias,
    with_bias,
    with_weight,
)
from fieldtune_offline.passes.fold_lora import fold_lora
from fieldtune_offline.passes.merged_tensor import MergedTensor, Update

_INPUTS = ("in_features", "in_channels")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _OutputFactors:
    """l ∘ W, a factor for each output.

    Attributes:
        key: name of the input that takes the factors.
        axis: of the weight or bias that they belong to.
        before: what is done to the weight first.
    """

    key: str
    axis: int
    before: Update | None = None

    def __call__(self, value: FloatArray, fed: Mapping[str, FloatArray]) -> FloatArray:
        """Return the weight or bias times its factors."""
        value = value if self.before is None else self.before(value, fed)
        shape = [-1 if axis == self.axis else 1 for axis in range(value.ndim)]
        scaled: FloatArray = value * fed[self.key].reshape(shape)
        return scaled


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _InputFactors:
    """W ∘ l, a factor for each input.

    Attributes:
        key: name of the input that takes the factors.
        outputs_first: whether the weight is (outputs, inputs, …).
        groups: of a convolution; the weight of each has a part of the inputs.
    """

    key: str
    outputs_first: bool
    groups: int = 1

    def __call__(self, value: FloatArray, fed: Mapping[str, FloatArray]) -> FloatArray:
        """Return the weight times its factors."""
        rows = value if self.outputs_first else value.T
        of_groups = fed[self.key].reshape(self.groups, -1)
        each = np.repeat(of_groups, len(rows) // self.groups, axis=0)
        scaled: FloatArray = rows * each.reshape(*each.shape, *[1] * (rows.ndim - 2))
        return scaled if self.outputs_first else scaled.T


def fold_ia3(fed: Mapping[str, ir.Value], layout: Layout) -> list[tuple[MergedTensor, ir.Value]]:
    """Take the factors of all layers out of a forward graph, in place; as ``fold_lora``."""
    folded: list[tuple[MergedTensor, ir.Value]] = []
    for p in layout.parameters:
        if p.replaces is not None:
            continue
        places = factors(fed[p.key], p.module)
        if places:
            folded += _into_inputs(places, p) if set(p.axes) & set(_INPUTS) else _into_outputs(places, p)
    return folded


def _into_inputs(
    places: Sequence[tuple[ir.Node, ir.Value]], parameter: ParameterSpec
) -> list[tuple[MergedTensor, ir.Value]]:
    products = [product for node, _ in places for product in products_with(node.outputs[0], parameter.module)]
    if not products:
        raise ExportError(
            f"{parameter.module}: its scaled inputs go into no product, so that its adapter cannot be merged"
        )
    for node, value in places:
        bypass(node, value)
    update = _InputFactors(
        key=parameter.key,
        outputs_first=output_axis(products[0]) == 0,
        groups=products[0].attributes.get_int("group", 1),
    )
    return [with_weight(products, parameter.module, update)]


def _into_outputs(
    places: Sequence[tuple[ir.Node, ir.Value]], parameter: ParameterSpec
) -> list[tuple[MergedTensor, ir.Value]]:
    products = [product_of(value, parameter.module) for _, value in places]
    for node, value in places:
        bypass(node, value)
    update = _OutputFactors(key=parameter.key, axis=output_axis(products[0]))
    folded = [with_weight(products, parameter.module, update)]
    bias = bias_of(products[0])
    if bias is not None:
        assert bias.shape is not None
        shape = tuple(bias.shape.numpy())
        folded.append(with_bias(products, parameter.module, _OutputFactors(key=parameter.key, axis=0), shape))
    return folded


def fold_dora(fed: Mapping[str, ir.Value], layout: Layout) -> list[tuple[MergedTensor, ir.Value]]:
    """Take all pairs and what multiplies their layers' outputs out of a forward graph, in place; as ``fold_lora``.

    W becomes (W + s · B A) ∘ m / ‖W + s · B A‖, whose last factor is fed (Liu et al. 2024, §4.1).
    """
    magnitudes = {f"{p.module}.weight": p for p in layout.parameters if p.weight is not None}
    folded: list[tuple[MergedTensor, ir.Value]] = []
    for tensor, value in fold_lora(fed, layout):
        parameter = magnitudes[tensor.name]
        products = [node for node, _ in value.uses()]
        places = factors(fed[parameter.key], parameter.module)
        _take_bias([node for node, _ in places], products)
        for node, total in places:
            bypass(node, total)
        update = _OutputFactors(key=parameter.key, axis=output_axis(products[0]), before=tensor.update)
        folded.append((dataclasses.replace(tensor, update=update), value))
    return folded


def _take_bias(scaled: Sequence[ir.Node], products: Sequence[ir.Node]) -> None:
    """Let a layer's products add the bias that is added to all their scaled outputs, if that is so."""
    additions: list[tuple[ir.Node, ir.Value]] = []
    biases: list[ir.Value] = []
    for node in scaled:
        (output,) = node.outputs
        if output.is_graph_output():
            return
        for addition, index in output.uses():
            other = addition.inputs[1 - index] if addition.op_type == "Add" else None
            bias = None if other is None else _along_outputs(other, products[0])
            if bias is None:
                return
            additions.append((addition, output))
            biases.append(bias)
    if len(additions) == len(scaled) and all(bias is biases[0] for bias in biases):
        set_bias(products, biases[0])
        for addition, output in additions:
            bypass(addition, output)


def _along_outputs(value: ir.Value, product: ir.Node) -> ir.Value | None:
    """Return the vector that a value is, laid along a product's outputs; None where it is something else."""
    if product.op_type == "Conv":
        node = value.producer()
        if node is None or node.op_type != "Reshape" or value.shape is None or list(value.shape)[2:] != [1, 1]:
            return None
        laid = node.inputs[0]
    else:
        laid = value if product.op_type == "Gemm" else None
    if laid is None or laid.const_value is None or laid.shape is None:
        return None
    # One for each output: a bias in the product is not spread over them as an addition would spread it.
    weight = product.inputs[1]
    outputs = None if weight is None or weight.shape is None else weight.shape[output_axis(product)]
    return laid if list(laid.shape) == [outputs] else None
