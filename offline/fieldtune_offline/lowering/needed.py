"""Which nodes compute a value, and what a node reads: its inputs, and what a loop's body reads from around it."""

from collections.abc import Collection, Sequence

import onnx_ir as ir


def needed_nodes(
    nodes: Sequence[ir.Node], outputs: Sequence[ir.Value], given: Collection[int] = frozenset()
) -> list[ir.Node]:
    """Return the nodes that compute the outputs, in order; values whose ids are given need not be computed."""
    needed = {id(value) for value in outputs if id(value) not in given}
    kept: list[ir.Node] = []
    for node in reversed(nodes):
        if any(id(value) in needed for value in node.outputs):
            kept.append(node)
            needed.update(id(value) for value in values_read(node) if id(value) not in given)
    return kept[::-1]


def values_read(node: ir.Node) -> list[ir.Value]:
    """Return the values that must be there for a node to run; of its graphs, those from around them."""
    values = [value for value in node.inputs if value is not None]
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            values += captured(attribute.as_graph())
    return values


def captured(graph: ir.Graph) -> list[ir.Value]:
    """Return what a branch or a loop's body reads from around it."""
    nodes = list(graph.all_nodes())
    own = {id(value) for node in nodes for value in node.outputs}
    for inner in (graph, *graph.subgraphs()):
        own |= {id(value) for value in (*inner.inputs, *inner.initializers.values())}
    read = (*(value for node in nodes for value in node.inputs if value is not None), *graph.outputs)
    return list({id(value): value for value in read if id(value) not in own}.values())
