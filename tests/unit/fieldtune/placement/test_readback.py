"""What ONNX Runtime tells of a session, found again in the node table; sessions themselves are in tests/integration."""

import pytest

from fieldtune.placement.readback import Ran, RanPiece, describe, match_pieces

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
    pieces = [
        RanPiece(NPU, _ran(table, first)),
        RanPiece(CPU, _ran(table, ["softmax"])),
        RanPiece(NPU, _ran(table, rest)),
    ]
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
        RanPiece(NPU, (Ran("fused_0", "EPContext"),)),
        RanPiece(CPU, _ran(table, ["softmax"])),
        RanPiece(NPU, (Ran("fused_1", "x"),)),
    ]
    read = match_pieces(table, pieces)
    assert (read.pieces, len(read.partitions), read.cpu) == (2, 1, (_index(table, "softmax"),))
    plan = describe(table, read)
    assert (plan.accelerator_nodes, plan.cpu_nodes) == (len(table.nodes) - 1, 1)
    assert plan.boundary_bytes == 4 * 2 * 16 * 8 * 8 * 4


def test_nodes_that_are_given_one_by_one_are_a_piece_as_far_as_the_cpu_is_not_between_them(table):
    first, rest = _names(table, before="softmax"), _names(table, since="softmax")[1:]
    added = RanPiece(NPU, (Ran("Memcpy_token_1", "MemcpyFromHost"),))
    one_by_one = [RanPiece(NPU, (node,)) for node in _ran(table, [*first, *rest])]
    read = match_pieces(table, [*one_by_one, added, RanPiece(CPU, _ran(table, ["softmax"]))])
    assert (read.pieces, [len(group) for group in read.partitions]) == (2, [len(first), len(rest)])


def test_what_the_cpu_fused_is_not_credited_to_the_accelerator(table):
    pieces = [RanPiece(NPU, (Ran("fused_0", "EPContext"),)), RanPiece(CPU, (Ran("a b fused", "FusedConv"),))]
    plan = describe(table, match_pieces(table, pieces))
    each = table.macs(table.nodes[_index(table, "a")])
    assert (plan.accelerator_macs, plan.cpu_macs) == (2 * each, each)
    assert plan.offload == pytest.approx(2 / 3)


def test_a_session_of_the_cpu_alone(table):
    read = match_pieces(table, [RanPiece(CPU, (node,)) for node in _ran(table, _names(table))])
    assert (read.partitions, read.pieces) == ((), 0)
    assert len(read.cpu) == len(table.nodes)
    assert describe(table, read).offload == 0.0


def test_nodes_that_were_folded_away_are_on_neither_side(table):
    seen = [name for name in _names(table) if not name.startswith("DequantizeLinear")]
    read = match_pieces(table, [RanPiece(CPU, (node,)) for node in _ran(table, [*seen, "softmax/duplicated"])])
    assert len(read.cpu) == len(seen)


@pytest.fixture
def products(graph):
    """input → conv a (9,216 MACs) → pool → Flatten → MatMul b/mm (1,024) → Add → Gemm c (512, its input transposed)."""
    made = graph()
    value = made.conv(made.input("x", 2, 2, 8, 8), "a", channels=4)
    value = made.add("GlobalAveragePool", [value], (2, 4, 1, 1), name="pool")
    value = made.add("Flatten", [value], (2, 4), name="flat")
    weight = made.constant("b/mm.weight", 4, 128)
    value = made.add("MatMul", [value, weight], (2, 128), name="b/mm", macs=(2, 128, 4))
    value = made.add("Add", [value, made.constant("b/bias", 128)], (2, 128), name="b/add")
    return made.table(made.gemm(value, "c", 2))


# What ONNX Runtime makes of the MatMul with its Add, and of a Gemm whose input it transposes, at optimization "basic".
FUSED = {
    "1.16": (Ran("gemm", "Gemm"), Ran("c_transformed", "Gemm")),
    "1.23": (Ran("b/mm/MatMulAddFusion", "Gemm"), Ran("c/GemmTransposeFusion/", "Gemm")),
    "off": (Ran("b/mm", "MatMul"), Ran("c", "Gemm")),
}


@pytest.mark.parametrize("fused", FUSED.values(), ids=FUSED)
@pytest.mark.parametrize("accelerators", [Ran("a", "Conv"), Ran("fused_0", "EPContext")], ids=["named", "unnamed"])
def test_products_that_the_cpu_runs_under_other_names_are_the_cpus(products, fused, accelerators):
    pieces = [RanPiece(NPU, (accelerators,)), *(RanPiece(CPU, (node,)) for node in fused)]
    plan = describe(products, match_pieces(products, pieces))
    assert (plan.accelerator_macs, plan.cpu_macs) == (2 * 4 * 8 * 8 * 2 * 9, 2 * 128 * 4 + 2 * 2 * 128)


@pytest.mark.parametrize("fused", FUSED.values(), ids=FUSED)
def test_products_that_the_accelerator_runs_under_other_names_are_its_own(products, fused):
    pieces = [RanPiece(CPU, (Ran("a", "Conv"),)), RanPiece(NPU, (Ran("flat", "Flatten"), *fused))]
    read = match_pieces(products, pieces)
    plan = describe(products, read)
    assert (plan.accelerator_macs, plan.cpu_macs) == (2 * 128 * 4 + 2 * 2 * 128, 2 * 4 * 8 * 8 * 2 * 9)
    assert (len(read.partitions), read.pieces) == (1, 1)


def test_what_is_in_no_piece_is_not_the_accelerators_where_its_pieces_have_names(products):
    plan = describe(products, match_pieces(products, [RanPiece(NPU, (Ran("a", "Conv"),))]))
    assert plan.cpu_operators == {"MatMul": 1, "Gemm": 1}
    assert plan.offload == pytest.approx(9216 / (9216 + 1024 + 512))


def test_a_fused_product_whose_name_begins_with_two_is_the_longer_ones(graph):
    made = graph()
    value = made.input("x", 1, 8)
    for name, out in (("mm", 8), ("mm_2", 16)):
        weight = made.constant(f"{name}.weight", 8, out)
        value = made.add("MatMul", [value, weight], (1, out), name=name, macs=(1, out, made.values[value].shape[1]))
    table = made.table(value)
    pieces = [
        RanPiece(NPU, (Ran("mm_2/MatMulAddFusion", "Gemm"),)),
        RanPiece(CPU, (Ran("mm/MatMulAddFusion", "Gemm"),)),
    ]
    assert match_pieces(table, pieces) == (((1,),), (0,), 1)
