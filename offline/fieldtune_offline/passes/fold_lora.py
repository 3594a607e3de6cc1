"""Fold LoRA pairs: take their branches out of a graph, and say what becomes of the weights that they stand beside.

1. The branch of a pair ends at the Add that joins it to the product of its own layer; what read the sum reads the
   product, and what read the size of an axis off the branch reads it off the layer.
2. The product's weight becomes one of its own, named after the module.
3. The bias of a lora_B goes into the product's bias, which is made where there is none.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from fieldtune.bundle import FloatArray, Layout, ParameterSpec
from fieldtune.errors import ExportError
from fieldtune_offline.passes.merged_tensor import MergedTensor, unbound

_LORA_BIAS = ".lora_B.bias"
_WEIGHT_INPUT = {"Gemm": 1, "Conv": 1, "Gather": 0}
"""The products that a LoRA pair stands beside, and which of their inputs is the weight."""
_BIAS_INPUT = 2
_MOVEMENTS = ("Reshape", "Transpose", "Mul")
"""What may stand between a product and the Add; a scaled embedding multiplies both sides by its factor."""
_IN_BRANCH = (*_WEIGHT_INPUT, *_MOVEMENTS, "MatMul", "Add")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _PairUpdate:
    """W + (alpha / rank) · B A (Hu et al. 2021, §4.1).

    Attributes:
        a: PEFT key of A, which is fed as (in_features, rank); of a convolution (rank, in, height, width).
        b: PEFT key of B, which is fed as (rank, out_features) with alpha / rank in it; of a convolution
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


def fold_lora(graph: ir.Graph, fed: Mapping[str, ir.Value], layout: Layout) -> list[tuple[MergedTensor, ir.Value]]:
    """Take the branches of all pairs out of a forward graph, in place.

    Args:
        graph: of eval.onnx or infer.onnx.
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
        if first.rank_axis == 0:
            folded += _fold(graph, fed, first, seconds[first.module], biases.get(first.module))
    return folded


def _fold(
    graph: ir.Graph,
    fed: Mapping[str, ir.Value],
    first: ParameterSpec,
    second: ParameterSpec,
    bias: ParameterSpec | None,
) -> list[tuple[MergedTensor, ir.Value]]:
    """Take a pair's branches out; return the weight that it is folded into, and the bias if that changes."""
    joins, sizes = _branches(fed[first.key], first.module)
    if not joins:
        return []  # nothing of this graph reads what the module computes
    products = [_product(other, first.module) for _, other in joins]
    for join, other in joins:
        _bypass(join, other)
    for node in sizes:
        _read_elsewhere(node, [value for product in products for value in (*product.outputs, *product.inputs)])
    held = products[0].inputs[_WEIGHT_INPUT[products[0].op_type]]
    assert held is not None
    transposed = products[0].op_type == "Gemm" and bool(products[0].attributes["transB"].as_int())
    weight = MergedTensor(
        name=f"{first.module}.weight",
        held=held.const_value,
        shape=_sizes(held),
        update=_PairUpdate(a=first.key, b=second.key, transposed=transposed),
    )
    replaced = [(weight, unbound(weight.name, held))]
    for product in products:
        if product.inputs[_WEIGHT_INPUT[product.op_type]] is not held:
            raise ExportError(f"{first.module}: is used with several weights, which one adapter cannot be folded into")
        product.replace_input_with(_WEIGHT_INPUT[product.op_type], replaced[0][1])
    if bias is not None and bias.key in fed:
        replaced.append(_fold_bias(graph, products, first.module, bias, fed))
    return replaced


def _fold_bias(
    graph: ir.Graph, products: Sequence[ir.Node], module: str, bias: ParameterSpec, fed: Mapping[str, ir.Value]
) -> tuple[MergedTensor, ir.Value]:
    """Give products a bias that has the bias of their lora_B in it."""
    inputs = products[0].inputs
    held = inputs[_BIAS_INPUT] if len(inputs) > _BIAS_INPUT else None
    tensor = MergedTensor(
        name=f"{module}.bias",
        held=None if held is None else graph.initializers[str(held.name)].const_value,
        shape=bias.shape,
        key=str(held.name) if held is not None and str(held.name) in fed else None,
        update=_BiasUpdate(key=bias.key),
    )
    value = ir.Value(name=tensor.name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(bias.shape))
    for product in products:
        if len(product.inputs) <= _BIAS_INPUT:
            product.resize_inputs(_BIAS_INPUT + 1)
        product.replace_input_with(_BIAS_INPUT, value)
    return tensor, value


def _branches(start: ir.Value, module: str) -> tuple[list[tuple[ir.Node, ir.Value]], list[ir.Node]]:
    """Follow the branches from A on.

    Returns:
        The Adds that end them, each with what the branch is added to; and the nodes that read sizes off them.
    """
    joins: list[tuple[ir.Node, ir.Value]] = []
    sizes: list[ir.Node] = []
    values = [start]
    while values:
        for node, index in values.pop().uses():
            other = node.inputs[1 - index] if node.op_type == "Add" else None
            # The bias of a lora_B is added within the branch.
            if other is not None and not (other.is_graph_input() and ".lora_" in str(other.name)):
                joins.append((node, other))
            elif node.op_type == "Shape":
                sizes.append(node)
            elif node.op_type in _IN_BRANCH:
                values.extend(node.outputs)
            else:
                raise ExportError(
                    f"{module}: its adapter goes through {node.name} ({node.op_type}), which is no part of a LoRA "
                    "branch as builds make it; build the bundle again with this release"
                )
    return joins, sizes


def _product(value: ir.Value, module: str) -> ir.Node:
    """Return the product of the layer itself that a value comes from: through reshapes and a factor."""
    node = value.producer()
    while node is not None and node.op_type not in _WEIGHT_INPUT:
        varying = [source for source in node.inputs if source is not None and source.const_value is None]
        node = varying[0].producer() if node.op_type in _MOVEMENTS and varying else None
    weight = None if node is None else node.inputs[_WEIGHT_INPUT[node.op_type]]
    scaled = node is not None and node.op_type == "Gemm" and node.attributes["alpha"].as_float() != 1
    if node is None or weight is None or weight.const_value is None or scaled:
        raise ExportError(
            f"{module}: the weight that its adapter is added to cannot be found in front of {value.name}; build the "
            "bundle again with this release"
        )
    return node


def _bypass(join: ir.Node, other: ir.Value) -> None:
    total = join.outputs[0]
    if total.is_graph_output():
        total.name, other.name = f"{total.name}.sum", total.name  # an output keeps its name
    ir.convenience.replace_all_uses_with(total, other, replace_graph_outputs=True)


def _read_elsewhere(node: ir.Node, values: Sequence[ir.Value | None]) -> None:
    """Let a Shape that reads some axes of a branch read the same ones of a value of the layer itself."""
    branch = node.inputs[0]
    assert branch is not None
    wanted = _axes(node, branch)
    for value in values:
        if value is not None and value.const_value is None and _axes(node, value) == wanted:
            node.replace_input_with(0, value)
            return


def _axes(node: ir.Node, value: ir.Value) -> list[int | ir.SymbolicDim]:
    assert value.shape is not None
    return list(value.shape)[node.attributes["start"].as_int() : node.attributes["end"].as_int()]


def _sizes(value: ir.Value) -> tuple[int, ...]:
    assert value.shape is not None
    return tuple(value.shape.numpy())
