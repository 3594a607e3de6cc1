"""Rules that look at a graph as a whole, and at operators that end the compiler's process."""

import dataclasses

import pytest

from builders import altered
from fieldtune.hardware import load_profile
from fieldtune.placement.rules import check_rules
from rule_checks import KV260, found, one, one_conv, with_accelerator


def test_only_the_origin_of_a_dynamic_shape_is_named(graph):
    made = graph()
    x = made.input("x", "batch", 16, 8, 8)
    chosen = made.add("NonZero", [made.input("mask", 1, 4)], (2, "?"), name="chosen", dtype="int64")
    out = made.quantize(made.conv(made.quantize(x), "conv"))
    assert found(made.table(out, chosen)) == [
        ("dynamic-shape", "x", "shape (batch, 16, 8, 8)"),
        ("dynamic-shape", "chosen", "shape (2, ?)"),
    ]


def test_the_batch_of_every_input_is_the_profiles(graph):
    made = graph()
    x, mask = made.input("x", 14, 16, 8, 8), made.input("mask", 1, 4)
    made.input("theta_free", dtype="int64")  # without dimensions
    table = made.table(made.quantize(made.conv(made.quantize(x), "conv")), made.add("Not", [mask], (1, 4)))
    assert found(table, load_profile("vek280")) == [("batch", "mask", "batch 1")]
    assert found(table) == [("batch", "x", "batch 14")]


@pytest.mark.parametrize(
    ("opset", "bounds", "expected"),
    [
        (19, (None, 18), ("opset 1 to 18", "opset 19")),
        (12, (13, 18), ("opset 13 to 18", "opset 12")),
        (12, (13, None), ("opset 13 or later", "opset 12")),
        (None, (13, 18), ("opset 13 to 18", "a node table that does not state it")),
    ],
)
def test_opset_out_of_range(graph, opset, bounds, expected):
    table = dataclasses.replace(one_conv(graph), opset=opset)
    oldest, latest = bounds
    profile = with_accelerator(KV260, opset_min=oldest, opset_max=latest)
    violation = one(table, profile)
    assert (violation.rule, violation.node) == ("opset-range", "prefix")
    assert (violation.limit, violation.found) == expected
    for within in {oldest or latest, latest or oldest}:
        assert check_rules(dataclasses.replace(table, opset=within), profile) == ()
    assert check_rules(table, with_accelerator(KV260, opset_min=None, opset_max=None)) == ()


def test_a_training_graph_by_name_by_tensor_or_by_word(graph):
    table = one_conv(graph)
    assert found(dataclasses.replace(table, graph="suffix_gradient")) == [
        ("training-graph", "suffix_gradient", "a training graph")
    ]
    assert found(table, training=True) == [("training-graph", "prefix", "a training graph")]
    made = graph()
    out = made.quantize(made.conv(made.quantize(made.input("x", 1, 16, 8, 8)), "conv"))
    made.input("theta", 1)
    assert found(made.table(out)) == [("training-graph", "prefix", "input theta")]


def test_memory_is_weights_and_the_most_that_is_alive_together(graph):
    made = graph()
    x = made.quantize(made.input("x", 1, 16, 8, 8))  # 4,096 bytes of float32, 1,024 of int8
    first = made.quantize(made.conv(x, "first", channels=64))  # 4,096 bytes; 9,216 of weights
    second = made.quantize(made.conv(first, "second"))  # 1,024 bytes; 9,216 of weights
    table = made.table(second)

    def limited(limit):
        return with_accelerator(KV260, memory_bytes=limit)

    # Live together are at most the input and what it is quantized to; or both tensors of a convolution.
    weights, alive = 2 * 9216, 4096 + 1024
    assert check_rules(table, limited(weights + alive)) == ()
    violation = one(table, limited(weights + alive - 1))
    assert (violation.rule, violation.limit) == ("memory", "23,551 bytes")
    assert violation.found == "23,552 bytes: 18,432 of weights and 5,120 of activations"
    # What leaves the accelerator is dequantized for the caller, who needs it to the end.
    assert violation.node == "QuantizeLinear0"


def test_the_limit_of_memory_is_the_nearest_that_is_known(graph):
    table = one_conv(graph)

    def limited(total, available):
        return altered(KV260, memory={"total_bytes": total, "available_for_app_bytes": available})

    assert one(table, with_accelerator(limited(4, 3), memory_bytes=2)).limit == "2 bytes"
    assert one(table, limited(4, 3)).limit == "3 bytes"
    assert one(table, limited(4, None)).limit == "4 bytes"
    assert check_rules(table, limited(None, None)) == ()


# Operators that end the compiler's process.


@pytest.mark.parametrize("attribute", ["strides", "pads", "dilations", "kernel_shape", "group"])
def test_each_implicit_attribute_is_named(graph, attribute):
    assert found(one_conv(graph, **{attribute: None})) == [("implicit-conv-attributes", "conv", f"no {attribute}")]


def test_an_if_inside_a_branch_and_one_with_a_constant_condition(graph):
    made = graph()
    yes = made.constant("yes", dtype="bool", value=True)
    made.add("If", [yes], (1,), name="constant", then_branch={"operators": ["Relu"], "captured": []})
    made.add("If", [yes], (1,), name="nested", then_branch={"operators": ["If", "Relu"], "captured": []})
    shaped = made.add("Shape", [made.input("x", 1, 4)], (2,), name="shape", dtype="int64")
    static = made.add("Less", [shaped, shaped], (2,), name="static", dtype="bool")
    made.add("If", [static], (1,), name="folded", then_branch={"operators": [], "captured": []})
    assert found(made.table("folded.out")) == [("data-dependent-if", "nested", "an If inside of it")]


def test_only_an_lstm_is_refused_of_the_recurrent_operators(graph):
    made = graph()
    x = made.input("x", 1, 4, 4)
    for op in ("GRU", "RNN"):
        made.add(op, [x], (1, 4, 4), name=op)
    made.add("Loop", [x], (1, 4, 4), name="loop", body={"operators": ["LSTM"], "captured": [x]})
    assert found(made.table("loop.out")) == [("lstm", "loop", "an LSTM")]
