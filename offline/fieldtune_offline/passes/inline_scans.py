"""Inline scans: the body of each Scan in its place, once for the rows of all its rounds.

1. A body must carry nothing from round to round and compute no row from another, as the chunks of a loss do.
2. What the rounds go over, (rounds, rows, …), becomes (rounds × rows, …).
3. Results, (rounds × rows, …), become those of one round, (1, rounds × rows, …).
"""

import numpy as np
import onnx_ir as ir


def inline_scans(graph: ir.Graph) -> bool:
    """Edit a graph in place; return whether it was changed."""
    scans = [node for node in graph if node.op_type == "Scan"]
    for scan in scans:
        _inline(scan, graph)
    return bool(scans)


def _inline(scan: ir.Node, graph: ir.Graph) -> None:
    body = scan.attributes["body"].as_graph()
    assert scan.attributes["num_scan_inputs"].as_int() == len(scan.inputs), scan.name
    for inner, outer in zip(body.inputs, scan.inputs, strict=True):
        assert outer is not None
        rows = _reshaped(outer, [-1, *_rest(inner)], f"{inner.name}.rows", graph)
        graph.insert_before(scan, rows)
        ir.convenience.replace_all_uses_with(inner, rows.outputs[0])
    results = list(body.outputs)
    body.outputs.clear()
    nodes = list(body)
    body.remove(nodes)
    graph.insert_before(scan, nodes)
    for inner, outer in zip(results, scan.outputs, strict=True):
        round_ = _reshaped(inner, [1, -1, *_rest(inner)], f"{inner.name}.round", graph)
        graph.insert_before(scan, round_)
        ir.convenience.replace_all_uses_with(outer, round_.outputs[0])
    graph.remove(scan, safe=True)


def _rest(value: ir.Value) -> list[int]:
    """Return the sizes of a row."""
    assert value.shape is not None
    sizes = value.shape[1:]
    assert all(isinstance(size, int) for size in sizes), value.name
    return [int(size) for size in sizes if isinstance(size, int)]


def _reshaped(value: ir.Value, shape: list[int], name: str, graph: ir.Graph) -> ir.Node:
    sizes = ir.tensor(np.array(shape, np.int64), name=f"{name}.shape")
    held = ir.Value(name=sizes.name, type=ir.TensorType(sizes.dtype), shape=ir.Shape([len(shape)]), const_value=sizes)
    graph.register_initializer(held)
    node = ir.node("Reshape", [value, held], name=f"{name}.Reshape")
    node.outputs[0].name, node.outputs[0].type = name, value.type
    return node
