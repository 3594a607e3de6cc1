"""What ONNX Runtime tells of a session, found again in the node table; sessions themselves are in tests/integration."""

import pytest

from fieldtune.placement.readback import Piece, Ran, describe, match_pieces

CPU, NPU = "CPUExecutionProvider", "OpenVINOExecutionProvider"


@pytest.fixture
def table(graph):
    """input → QDQ → conv a → QDQ → Softmax → QDQ → conv b → QDQ → conv c → QDQ → output."""
    made = graph()
    value = made.quantize(made.input("x", 2, 16, 8, 8))
    value = made.quantize(made.conv(value, "a"))
    value = made.quantize(made.add("Softmax", [value], (2, 16, 8, 8), name="softmax"))
    value = made.quantize(made.conv(value, "b"))
    return made.table(made.quantize(made.conv(value, "c")))


def _names(table, *, before=None, since=None):
    names = [node.name for node in table.nodes]
    return names[names.index(since) if since else 0 : names.index(before) if before else None]


def _ran(table, names):
    ops = {node.name: node.op for node in table.nodes}
    return tuple(Ran(name, ops.get(name, "Unknown")) for name in names)


def _index(table, name):
    return [node.name for node in table.nodes].index(name)


def test_pieces_with_names_are_told_apart(table):
    first, rest = _names(table, before="softmax"), _names(table, since="softmax")[1:]
    pieces = [Piece(NPU, _ran(table, first)), Piece(CPU, _ran(table, ["softmax"])), Piece(NPU, _ran(table, rest))]
    read = match_pieces(table, pieces)
    assert read.pieces == 2
    assert [len(group) for group in read.partitions] == [len(first), len(rest)]
    assert read.cpu == (_index(table, "softmax"),)
    plan = describe(table, read)
    assert plan.offload == 1.0
    assert plan.cpu_operators == {"Softmax": 1}
    # x, what Softmax reads and writes as float32, and the output: each 2 · 16 · 8 · 8 numbers of four bytes.
    assert plan.boundary_bytes == 4 * 2 * 16 * 8 * 8 * 4


def test_pieces_without_names_hold_whatever_the_cpu_does_not_run(table):
    pieces = [
        Piece(NPU, (Ran("fused_0", "EPContext"),)),
        Piece(CPU, _ran(table, ["softmax"])),
        Piece(NPU, (Ran("fused_1", "x"),)),
    ]
    read = match_pieces(table, pieces)
    assert (read.pieces, len(read.partitions), read.cpu) == (2, 1, (_index(table, "softmax"),))
    plan = describe(table, read)
    assert (plan.accelerator_nodes, plan.cpu_nodes) == (len(table.nodes) - 1, 1)
    assert plan.boundary_bytes == 4 * 2 * 16 * 8 * 8 * 4


def test_what_the_cpu_fused_is_not_credited_to_the_accelerator(table):
    pieces = [Piece(NPU, (Ran("fused_0", "EPContext"),)), Piece(CPU, (Ran("a b fused", "FusedConv"),))]
    plan = describe(table, match_pieces(table, pieces))
    each = table.macs(table.nodes[_index(table, "a")])
    assert (plan.accelerator_macs, plan.cpu_macs) == (2 * each, each)
    assert plan.offload == pytest.approx(2 / 3)


def test_a_session_of_the_cpu_alone(table):
    read = match_pieces(table, [Piece(CPU, (node,)) for node in _ran(table, _names(table))])
    assert (read.partitions, read.pieces) == ((), 0)
    assert len(read.cpu) == len(table.nodes)
    assert describe(table, read).offload == 0.0


def test_nodes_that_were_folded_away_are_on_neither_side(table):
    seen = [name for name in _names(table) if not name.startswith("DequantizeLinear")]
    read = match_pieces(table, [Piece(CPU, (node,)) for node in _ran(table, [*seen, "softmax/duplicated"])])
    assert len(read.cpu) == len(seen)
