"""A graph's nodes in the order in which they run, joined where neighbours run in one place."""

from builders import node, node_table
from fieldtune.bundle.node_tables import Value
from fieldtune.placement.pieces import pieces_of
from fieldtune.placement.plan import CpuNode, Partition, PlacementPlan


def table(*operators):
    nodes = [
        node(op, [f"v{index}"], [f"v{index + 1}"], name=f"{op}_{index}", macs=("batch", 10) if op == "Conv" else ())
        for index, op in enumerate(operators)
    ]
    values = {f"v{index}": Value(dtype="float32", shape=("batch",)) for index in range(len(operators) + 1)}
    return node_table(*nodes, graph="prefix_board", inputs=["v0"], outputs=[f"v{len(operators)}"], values=values)


def plan(partitions, cpu):
    return PlacementPlan(
        partitions=tuple(Partition(nodes=nodes, macs=0, bytes_in=0, bytes_out=0) for nodes in partitions),
        cpu=tuple(CpuNode(index=index, op="", macs=0, reason="") for index in cpu),
    )


def test_neighbours_of_one_side_are_one_piece():
    graph = table("Quantize", "Conv", "Conv", "Softmax", "Reshape", "Conv", "Dequantize")
    pieces = pieces_of(graph, plan([(1, 2), (5,)], [0, 3, 4, 6]), {"batch": 3})
    assert [piece.partition for piece in pieces] == [None, 0, None, 1, None]
    assert [piece.nodes for piece in pieces] == [1, 2, 2, 1, 1]
    assert [piece.macs for piece in pieces] == [0, 60, 0, 30, 0]
    assert pieces[1].operators == {"Conv": 2}


def test_a_partition_runs_when_its_last_node_can():
    # Node 1 belongs to the partition, and node 2, which it waits for beside node 3, does not.
    graph = table("Quantize", "Conv", "Softmax", "Conv")
    assert [piece.partition for piece in pieces_of(graph, plan([(1, 3)], [0, 2]), {"batch": 1})] == [None, 0]


def test_without_a_plan_the_cpu_runs_all():
    (piece,) = pieces_of(table("Conv", "Relu"), None, {"batch": 2})
    assert (piece.partition, piece.macs, piece.operators) == (None, 20, {"Conv": 1, "Relu": 1})
