"""Cheapest boundary: where the frozen part of a training graph is cheapest to cut off.

1. A node that does not depend on what is trained, nor on labels, is frozen: it could be computed once a sample.
2. A frozen value that the rest needs is either carried across the boundary or computed again behind it. Only float32
   values whose first axis is the batch can be carried; what derives from shapes, positions and masks is computed again.
3. Which of them are carried is a minimum cut: a carried value costs its bytes, a node computed again its MACs, or one
   for each element where it multiplies no matrices.
"""

import collections
from collections.abc import Collection, Sequence

import networkx as nx
import onnx_ir as ir

from fieldtune.bundle import product
from fieldtune.errors import UnsupportedModel
from fieldtune_offline.node_table import multiply_accumulates

BATCH = "batch"
_MACS_A_BYTE = (128, 32, 8, 2)
"""What a carried byte costs, in multiply-accumulates: one read at 100 MB/s from an SD card against 12.8 GMAC/s of a
board's CPU. So the input of an adapted layer is carried and not its frozen product with the weight as well, which would
be as large or larger. Where all would be computed again at this price (small models), carrying is made cheaper."""
_SIZES = collections.defaultdict(lambda: 64, {BATCH: 1})
"""Sizes of symbolic dimensions while costs are compared: one sample, and something for what is not the batch."""
_FREE = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL})
"""Inputs of these types (token ids, masks, labels) are fed to the suffix as well, for next to nothing."""


def cheapest_boundary(graph: ir.Graph, trained: Collection[str]) -> list[ir.Value]:
    """Return the values to carry across the boundary, in the graph's order.

    Args:
        graph: batch and parameters → loss and gradients.
        trained: names of the inputs that are trained.

    Raises:
        UnsupportedModel: no product or convolution is frozen: there is nothing worth cutting off.
    """
    frozen = frozen_nodes(graph, trained)
    for price in _MACS_A_BYTE:
        carried = _cut(graph, frozen, trained, price)
        below = [value.producer() for value in carried]
        # An input that is carried would have to be kept for every sample, and the prefix would compute it from itself.
        if None not in below and any(multiply_accumulates(node) for node in _before(carried)):
            return carried
    raise UnsupportedModel(
        "nothing worth a split: what is adapted begins before the first frozen product; adapt the last blocks only "
        "(--split N, or target modules of later blocks)"
    )


def reads_batch(node: ir.Node) -> bool:
    """Whether a node reads no more of an input than how many samples there are, which the boundary tells as well."""
    value = node.inputs[0] if node.op_type == "Shape" else None
    if value is None or value.producer() is not None or not value.shape:
        return False
    first = value.shape[0]
    return not isinstance(first, int) and first.value == BATCH and node.attributes.get_int("end", 0) == 1


def frozen_nodes(graph: ir.Graph, trained: Collection[str]) -> list[ir.Node]:
    """Return the nodes that depend on none of the inputs named, in order."""
    moving = {id(value) for value in graph.inputs if value.name in trained}
    frozen: list[ir.Node] = []
    for node in graph:
        if any(id(value) in moving for value in node.inputs if value is not None):
            moving.update(id(value) for value in node.outputs)
        else:
            frozen.append(node)
    return frozen


def _cut(graph: ir.Graph, frozen: Sequence[ir.Node], trained: Collection[str], price: int) -> list[ir.Value]:
    """Return the values that are carried at a price in MACs a byte.

    What ends on the sink's side is computed behind the boundary. An edge from the source costs what computing a node
    there does; an edge from a node to its value what carrying that does; edges without a capacity are never cut.
    """
    flow = nx.DiGraph()
    needed, inside = {id(node) for node in graph}, {id(node) for node in frozen}
    values: list[ir.Value] = []
    for node in frozen:
        flow.add_edge("source", ("node", id(node)), capacity=_cost(node))
    for value in graph.inputs:
        if value.dtype not in _FREE and value.name not in trained:
            flow.add_edge("source", ("node", id(value)))
            values.append(value)
    values += [value for node in frozen for value in node.outputs]
    for value in values:
        # Nodes that were made and not needed still count as uses of their inputs.
        consumers = [node for node, _ in value.uses() if id(node) in needed and not reads_batch(node)]
        if not consumers and not value.is_graph_output():
            continue
        place = ("value", id(value))
        if _can_be_carried(value):
            flow.add_edge(("node", _maker(value)), place, capacity=price * 4 * _elements(value))
        else:
            flow.add_edge(("node", _maker(value)), place)
        if value.is_graph_output():
            flow.add_edge(place, "sink")
        for node in consumers:
            flow.add_edge(place, ("node", id(node)) if id(node) in inside else "sink")
    # Without an edge each, a graph in which nothing is frozen would have no source.
    flow.add_node("source")
    flow.add_node("sink")
    _, (kept, behind) = nx.minimum_cut(flow, "source", "sink")
    return [value for value in values if ("node", _maker(value)) in kept and ("value", id(value)) in behind]


def _maker(value: ir.Value) -> int:
    return id(value.producer() or value)


def _before(values: Sequence[ir.Value]) -> list[ir.Node]:
    """Return the nodes that values depend on."""
    nodes: dict[int, ir.Node] = {}
    todo = [node for value in values if (node := value.producer()) is not None]
    while todo:
        node = todo.pop()
        if id(node) not in nodes:
            nodes[id(node)] = node
            todo += [made for value in node.inputs if value is not None and (made := value.producer()) is not None]
    return list(nodes.values())


def _can_be_carried(value: ir.Value) -> bool:
    shape = value.shape
    if value.dtype != ir.DataType.FLOAT or shape is None or not len(shape):
        return False
    batch, *rest = shape
    return not isinstance(batch, int) and batch.value == BATCH and all(isinstance(size, int) for size in rest)


def _cost(node: ir.Node) -> int:
    factors = multiply_accumulates(node)
    return product(factors, _SIZES) if factors else sum(_elements(value) for value in node.outputs)


def _elements(value: ir.Value) -> int:
    assert value.shape is not None
    return product([size if isinstance(size, int) else str(size.value) for size in value.shape], _SIZES)
