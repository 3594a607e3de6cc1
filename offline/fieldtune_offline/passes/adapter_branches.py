"""Where an adapter stands in a forward graph: its branch beside a layer's own product, or factors around that."""

from collections.abc import Sequence

import onnx_ir as ir

from fieldtune.errors import ExportError
from fieldtune_offline.passes.merged_tensor import MergedTensor, Update, unbound

_BIAS_INPUT = 2
_WEIGHT_INPUT = {"Gemm": 1, "Conv": 1, "Gather": 0}
"""The products that an adapter stands beside, and which of their inputs is the weight."""
_MOVEMENTS = ("Reshape", "Transpose", "Mul")
"""What may stand between a product and the Add; a scaled embedding multiplies both sides by its factor."""
_IN_BRANCH = (*_WEIGHT_INPUT, *_MOVEMENTS, "MatMul", "Add")
_AGAIN = "build the bundle again with this release"


def branches(start: ir.Value, module: str) -> tuple[list[tuple[ir.Node, ir.Value]], list[ir.Node]]:
    """Follow the branches of a low-rank pair, from A on.

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
                raise _unknown(node, module)
    return joins, sizes


def factors(start: ir.Value, module: str) -> list[tuple[ir.Node, ir.Value]]:
    """Return the Muls that factors go into, each with what is multiplied."""
    muls: list[tuple[ir.Node, ir.Value]] = []
    values = [start]
    while values:
        for node, index in values.pop().uses():
            other = node.inputs[1 - index] if node.op_type == "Mul" else None
            if other is not None:
                muls.append((node, other))
            elif node.op_type == "Reshape":
                values.extend(node.outputs)
            else:
                raise _unknown(node, module)
    return muls


def product_of(value: ir.Value, module: str) -> ir.Node:
    """Return the product of the layer itself that a value comes from: through reshapes and a factor."""
    node = value.producer()
    while node is not None and node.op_type not in _WEIGHT_INPUT:
        varying = [source for source in node.inputs if source is not None and source.const_value is None]
        node = varying[0].producer() if node.op_type in _MOVEMENTS and varying else None
    return _checked(node, module, f"in front of {value.name}")


def products_with(value: ir.Value, module: str) -> list[ir.Node]:
    """Return the products of the layer itself that a value goes into, through reshapes."""
    products: list[ir.Node] = []
    values = [value]
    while values:
        for node, _ in values.pop().uses():
            if node.op_type in _WEIGHT_INPUT:
                products.append(_checked(node, module, f"behind {value.name}"))
            elif node.op_type == "Reshape":
                values.extend(node.outputs)
            elif node.op_type != "Shape":
                raise _unknown(node, module)
    return products


def output_axis(product: ir.Node) -> int:
    """Return which axis of a product's weight is that of its outputs."""
    if product.op_type == "Gemm":
        return 0 if product.attributes["transB"].as_int() else 1
    return 0 if product.op_type == "Conv" else 1


def bypass(node: ir.Node, value: ir.Value) -> None:
    """Let what reads a node read one of its inputs."""
    total = node.outputs[0]
    if total.is_graph_output():
        total.name, value.name = f"{total.name}.sum", total.name  # an output keeps its name
    ir.convenience.replace_all_uses_with(total, value, replace_graph_outputs=True)


def read_elsewhere(node: ir.Node, values: Sequence[ir.Value | None]) -> None:
    """Let a Shape that reads some axes of a branch read the same ones of a value of the layer itself."""
    branch = node.inputs[0]
    assert branch is not None
    wanted = _axes(node, branch)
    for value in values:
        if value is not None and value.const_value is None and _axes(node, value) == wanted:
            node.replace_input_with(0, value)
            return


def with_weight(products: Sequence[ir.Node], module: str, update: Update) -> tuple[MergedTensor, ir.Value]:
    """Give the products of a module a weight of its own, which an adapter changes."""
    held = _weight(products[0])
    if any(_weight(product) is not held for product in products):
        raise ExportError(f"{module}: is used with several weights, which one adapter cannot be folded into")
    assert held.shape is not None
    shape = tuple(held.shape.numpy())
    tensor = MergedTensor(name=f"{module}.weight", held=held.const_value, shape=shape, update=update)
    value = unbound(tensor.name, held)
    for product in products:
        product.replace_input_with(_WEIGHT_INPUT[product.op_type], value)
    return tensor, value


def with_bias(
    products: Sequence[ir.Node], module: str, update: Update, shape: tuple[int, ...]
) -> tuple[MergedTensor, ir.Value]:
    """Give the products of a module a bias of its own, which an adapter changes; it starts from 0 where there is none.

    One that the adapter may bring stays an input's.
    """
    held = bias_of(products[0])
    tensor = MergedTensor(
        name=f"{module}.bias",
        held=None if held is None else held.const_value,
        shape=shape,
        key=str(held.name) if held is not None and held.is_graph_input() else None,
        update=update,
    )
    value = ir.Value(name=tensor.name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
    set_bias(products, value)
    return tensor, value


def bias_of(product: ir.Node) -> ir.Value | None:
    """Return the bias that a product adds."""
    return product.inputs[_BIAS_INPUT] if product.op_type != "Gather" and len(product.inputs) > _BIAS_INPUT else None


def set_bias(products: Sequence[ir.Node], bias: ir.Value) -> None:
    """Let products add a bias."""
    for product in products:
        if len(product.inputs) <= _BIAS_INPUT:
            product.resize_inputs(_BIAS_INPUT + 1)
        product.replace_input_with(_BIAS_INPUT, bias)


def _weight(product: ir.Node) -> ir.Value:
    held = product.inputs[_WEIGHT_INPUT[product.op_type]]
    assert held is not None
    return held


def _checked(node: ir.Node | None, module: str, where: str) -> ir.Node:
    """Return a node if it multiplies with a weight of the bundle as it is."""
    scaled = node is not None and node.op_type == "Gemm" and node.attributes["alpha"].as_float() != 1
    if node is None or scaled or _weight(node).const_value is None:
        raise ExportError(f"{module}: the weight that its adapter changes cannot be found {where}; {_AGAIN}")
    return node


def _unknown(node: ir.Node, module: str) -> ExportError:
    return ExportError(
        f"{module}: its adapter goes through {node.name} ({node.op_type}), which is no part of an adapter as builds "
        f"make it; {_AGAIN}"
    )


def _axes(node: ir.Node, value: ir.Value) -> list[int | ir.SymbolicDim]:
    assert value.shape is not None
    return list(value.shape)[node.attributes["start"].as_int() : node.attributes["end"].as_int()]
