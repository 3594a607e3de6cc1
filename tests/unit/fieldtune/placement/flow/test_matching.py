"""Nodes of a session found in the node table, though they were fused and renamed."""

import pytest

from builders import Graph
from fieldtune.placement.flow.matching import heavy_nodes, match_nodes


@pytest.fixture
def table():
    """A convolution of 9,216 multiply-accumulates, a MatMul of 512 and a Gemm of 256; and a product of constants."""
    made = Graph()
    value = made.conv(made.input("x", 1, 4, 8, 8), "conv", channels=4, kernel=(3, 3))
    value = made.add("Reshape", [value], (1, 256), name="flat")
    folded = made.add(
        "MatMul", [made.constant("a", 4, 4), made.constant("b", 4, 4)], (4, 4), name="folded", macs=(4, 4, 4)
    )
    value = made.add("MatMul", [value, made.constant("w", 256, 2)], (1, 2), name="mm", macs=(1, 2, 256))
    value = made.add("Add", [value, folded], (4, 2), name="add")
    return made.table(made.gemm(value, "gemm", 32))


def index(table, *names):
    return [[one.name for one in table.nodes].index(name) for name in names]


def test_the_largest_products_come_first_and_what_is_folded_not_at_all(table):
    assert heavy_nodes(table) == index(table, "conv", "mm", "gemm")


@pytest.mark.parametrize(
    ("ran", "names"),
    [
        ([("conv", "Conv"), ("add", "Add")], ["conv", "add"]),
        ([("mm/MatMulAddFusion", "Gemm")], ["mm"]),
        ([("mm_transformed", "Gemm"), ("gemm_x", "Gemm")], ["mm", "gemm"]),
        ([("conv_relu", "FusedConv")], ["conv"]),
        ([("conv_quant", "QLinearConv")], ["conv"]),
        ([("anything", "Gemm"), ("gemm2", "Gemm")], ["mm", "gemm"]),
        ([("conv/x", "Conv"), ("some", "Gemm"), ("mm", "MatMul")], ["conv", "gemm", "mm"]),
    ],
)
def test_nodes_are_found_by_name_then_by_what_their_name_begins_with_then_by_operator(table, ran, names):
    assert match_nodes(table, ran) == index(table, *names)


@pytest.mark.parametrize("ran", [("memcpy", "MemcpyToHost"), ("mmx", "Softmax"), ("", "Cast")])
def test_what_the_runtime_added_is_not_found(table, ran):
    assert match_nodes(table, [ran]) == [None]


def test_a_node_is_found_once(table):
    found = match_nodes(table, [("a", "Gemm"), ("b", "Gemm"), ("c", "Gemm"), ("d", "Conv"), ("e", "Conv")])
    assert found == [*index(table, "mm", "gemm"), None, *index(table, "conv"), None]


def test_nodes_without_a_name_are_found_by_operator_alone(table):
    nameless = Graph()
    x = nameless.input("x", 1, 8)
    out = nameless.add("MatMul", [x, nameless.constant("w", 8, 8)], (1, 8), name="", macs=("batch", 8, 8))
    assert match_nodes(nameless.table(out), [("", "MatMul")], {"batch": 2}) == [0]
