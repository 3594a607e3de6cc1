"""What operators do with packed matrices, as ``fieldtune check`` counts it."""

import pytest

from builders import quantization
from fieldtune.preflight.packed_products import multiplies_integers, unpacked_inside, unpacked_weights


@pytest.mark.parametrize(
    ("left", "right", "expected"), [("uint8", "int8", True), ("float32", "float32", False), ("float32", "uint8", False)]
)
def test_a_product_of_integers_is_one_of_two_tensors_of_bytes(graph, left, right, expected):
    made = graph()
    inputs = [made.input("x", 2, 3, dtype=left), made.constant("w", 3, 4, dtype=right)]
    table = made.table(made.add("MatMulIntegerToFloat", inputs, (2, 4), macs=(2, 4, 3)))
    assert multiplies_integers(table, table.nodes[0]) == expected


def test_what_multiplies_nothing_is_no_product(graph):
    made = graph()
    inputs = [made.input("x", 2, dtype="uint8"), made.input("y", 2, dtype="uint8")]
    table = made.table(made.add("BitwiseAnd", inputs, (2,), dtype="uint8"))
    assert not multiplies_integers(table, table.nodes[0])


@pytest.mark.parametrize(("op", "held"), [("MatMulBnb4", 2048), ("MatMulNBits", 0)])
def test_one_operator_unpacks_its_matrix_whole_and_the_other_where_nothing_is_prepacked(graph, op, held):
    made = graph()
    codes = made.constant("codes", 1024, dtype="uint8")
    table = made.table(made.add(op, [made.input("x", 4, 64), codes], (4, 32), macs=(4, 32, 64), K=64, N=32))
    (node,) = table.nodes
    assert unpacked_inside(table, node, prepacking=True) == unpacked_weights(table, node, prepacking=True) == held
    assert unpacked_inside(table, node, prepacking=False) == 2048


def test_codes_that_can_be_fed_are_not_prepacked(graph):
    made = graph()
    made.inputs.append(made.constant("codes", 1024, dtype="uint8"))
    table = made.table(made.add("MatMulNBits", [made.input("x", 4, 64), "codes"], (4, 32), K=64, N=32))
    assert unpacked_inside(table, table.nodes[0], prepacking=True) == 2048


def test_weights_are_dequantized_and_activations_with_constant_scales_are_not_counted(graph):
    made = graph()
    weights = made.add("DequantizeLinear", [made.input("codes", 32, 64, dtype="uint8")], (32, 64))
    known = made.add("DequantizeLinear", ["codes"], (32, 64), quantization=quantization(0.5, 0))
    varying = made.add("DequantizeLinear", [made.input("y", "batch", 64, dtype="uint8")], ("batch", 64))
    table = made.table(weights, known, varying)
    assert [unpacked_weights(table, node, prepacking=True) for node in table.nodes] == [2048, 0, 0]
