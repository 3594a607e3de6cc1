"""Rules of scales, zero points and types, and of the shifts that follow from them."""

import pytest

from fieldtune.placement.rules import check_rules
from rule_checks import KV260, STRIX, found, one, one_conv, with_accelerator


def test_a_tensor_is_named_once_for_its_pair(graph):
    made = graph()
    x = made.quantize(made.input("x", 1, 16, 8, 8), scale=0.1)
    out = made.quantize(made.conv(x, "conv"))
    assert found(made.table(out)) == [
        ("scale-power-of-two", "QuantizeLinear0", "scale 0.1 of 'QuantizeLinear0.out'"),
    ]


@pytest.mark.parametrize("scale", [0.0, -0.5, float("inf"), float("nan"), 3.0])
def test_scales_that_are_no_powers_of_two(graph, scale):
    made = graph()
    x = made.quantize(made.input("x", 1, 16, 8, 8), scale=scale)
    assert [rule for rule, _, _ in found(made.table(made.quantize(made.conv(x, "conv"))))] == ["scale-power-of-two"]


def test_zero_points_of_activations_and_of_weights(graph):
    def table(activation, weight):
        made = graph("uint8", 128)
        x = made.quantize(made.input("x", 4, 16), zero_point=activation)
        product = made.add("MatMul", [x, made.weight("w", 16, 8, zero_point=weight)], (4, 8), name="product")
        return made.table(made.quantize(product), opset=17)

    strix = with_accelerator(STRIX, batch=4)
    assert check_rules(table(128, 0), strix) == ()
    assert found(table(127, 0), strix) == [("zero-point", "QuantizeLinear0", "zero point 127 of 'QuantizeLinear0.out'")]
    assert found(table(128, 1), strix) == [("zero-point", "DequantizeLinear2", "zero point 1 of 'w'")]


def test_types_of_activations_weights_biases_and_other_constants(graph):
    def table(activation="int8", weight="int8", bias="int32", other="int8"):
        made = graph()
        x = made.quantize(made.input("x", 1, 16), dtype=activation)
        parts = [x, made.weight("w", 8, 16, dtype=weight), made.weight("b", 8, dtype=bias)]
        product = made.quantize(made.add("Gemm", parts, (1, 8), name="gemm", transB=1))
        return made.table(
            made.quantize(made.add("Add", [product, made.weight("c", 8, dtype=other)], (1, 8), name="add"))
        )

    for right in ({}, {"bias": "int8"}):
        assert check_rules(table(**right), KV260) == ()
    for wrong, node, limit in [
        ({"activation": "int16"}, "QuantizeLinear0", "int8"),
        ({"weight": "uint8"}, "DequantizeLinear2", "int8"),
        ({"bias": "uint8"}, "DequantizeLinear3", "int8 or int32"),
        ({"other": "int32"}, "DequantizeLinear7", "int8"),
    ]:
        violation = one(table(**wrong))
        assert (violation.rule, violation.node, violation.limit) == ("quantized-type", node, limit)


def test_scales_for_each_channel_and_computed_scales(graph):
    made = graph()
    x = made.quantize(made.input("x", 1, 16))
    weight = made.weight("w", 8, 16, scale=(0.5,) * 8, axis=0)
    made.add("DequantizeLinear", [made.constant("q", 4, dtype="int8"), made.input("s")], (4,), name="computed")
    table = made.table(made.quantize(made.add("Gemm", [x, weight], (1, 8), name="gemm", transB=1)), "computed.out")
    assert found(table) == [
        ("quantized-type", "DequantizeLinear2", "8 scales along axis 0 of 'w'"),
        ("quantized-type", "computed", "a computed scale of 'q'"),
    ]


def test_what_a_convolution_reads_and_writes_is_quantized(graph):
    made = graph()
    x = made.input("x", 1, 16, 8, 8)
    conv = made.conv(x, "conv")
    relu = made.add("Relu", [conv], (1, 16, 8, 8), name="relu")
    assert found(made.table(relu)) == [
        ("unquantized", "conv", "float32 input 'x'"),
        ("unquantized", "conv", "float32 output 'conv.out'"),
    ]


def test_a_float_bias_is_an_input(graph):
    made = graph()
    x = made.quantize(made.input("x", 1, 16))
    parts = [x, made.weight("w", 8, 16), made.constant("bias", 8)]
    table = made.table(made.quantize(made.add("Gemm", parts, (1, 8), name="gemm", transB=1)))
    assert found(table) == [("unquantized", "gemm", "float32 input 'bias'")]


@pytest.mark.parametrize(("out", "refused"), [(-5, False), (-6, True), (11, False), (12, True)])
def test_shift_cut_at_its_limits(graph, out, refused):
    """The shift is 7 + 4 - out, and 0 to 16 are allowed."""
    expected = [
        ("shift-cut", "conv", f"{11 - out} from position 7 of the weights, 4 of the input, {out} of the output")
    ]
    assert found(one_conv(graph, out=out)) == (expected if refused else [])


def test_shift_cut_counts_the_quantization_behind_the_activation(graph):
    made = graph()
    x = made.quantize(made.input("x", 1, 16, 8, 8))
    relu = made.add("Relu", [made.conv(x, "conv")], (1, 16, 8, 8), name="relu")
    assert [rule for rule, _, _ in found(made.table(made.quantize(relu, 12)))] == ["shift-cut"]


def test_an_npu_has_no_limits_of_shifts_and_sizes(graph):
    made = graph("uint8", 128)
    x = made.quantize(made.input("x", 1, 16, 8, 8))
    first = made.quantize(made.conv(x, "conv", kernel=(33, 33), strides=[20, 20]), 30)
    second = made.quantize(made.add("LeakyRelu", [made.conv(first, "next")], (1, 16, 8, 8), alpha=0.3), 0)
    table = made.table(made.quantize(made.add("Add", [first, second], (1, 16, 8, 8), name="add")), opset=17)
    assert check_rules(table, STRIX) == ()


@pytest.mark.parametrize(("other", "refused"), [(11, False), (12, True)])
def test_positions_of_an_additions_operands(graph, other, refused):
    made = graph()
    x = made.quantize(made.input("x", 1, 16, 8, 8))
    near, far = made.quantize(made.conv(x, "near")), made.quantize(made.conv(x, "far"), other)
    table = made.table(made.quantize(made.add("Add", [near, far], (1, 16, 8, 8), name="add")))
    expected = [("shift-cut", "far", "-1 from position 7 of the weights, 4 of the input, 12 of the output")]
    expected.append(("add-shift-read", "add", "8 between positions 4 and 12"))
    assert found(table) == (expected if refused else [])


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "GlobalAveragePool", "Pad", "Slice", "Concat"])
def test_positions_that_are_kept(graph, op):
    def table(out):
        made = graph()
        x = made.quantize(made.input("x", 1, 16, 8, 8))
        conv = made.quantize(made.conv(x, "conv"))
        inputs = [conv, x] if op == "Concat" else [conv]
        moved = made.add(op, inputs, (1, 16, 8, 8), name="moved")
        return made.table(made.quantize(moved, out))

    assert check_rules(table(4), KV260) == ()
    inputs = "4, 4" if op == "Concat" else "4"
    assert found(table(5)) == [("equal-positions", "moved", f"input {inputs}, output 5")]
