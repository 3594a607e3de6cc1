import dataclasses
from typing import get_args

import pytest

from builders import altered
from fieldtune.errors import PlacementRefused
from fieldtune.hardware import load_profile
from fieldtune.placement.rules import CHECKS, check_rules, refuse
from fieldtune.placement.violations import Rule

KV260 = load_profile("kv260")
STRIX = load_profile("ryzen-ai-strix")


def found(table, profile=KV260, **kwargs):
    return [(violation.rule, violation.node, violation.actual) for violation in check_rules(table, profile, **kwargs)]


def one(table, profile=KV260):
    (violation,) = check_rules(table, profile)
    return violation


def with_accelerator(profile, **changes):
    return altered(profile, accelerator=changes)


def one_conv(graph, *, into=4, out=4, shape=(1, 16, 8, 8), **changes):
    made = graph()
    x = made.quantize(made.input("x", *shape), into)
    return made.table(made.quantize(made.conv(x, "conv", **changes), out), opset=17)


def test_every_rule_has_a_check():
    assert tuple(CHECKS) == get_args(Rule)
    assert all(check.what.endswith(".") or "≤" in check.what for check in CHECKS.values())


def test_a_graph_that_obeys(graph):
    assert check_rules(one_conv(graph), KV260) == ()
    assert check_rules(one_conv(graph), load_profile("cpu-generic"), training=True) == ()


def test_a_violation_says_what_where_and_what_to_do(graph):
    violation = one(one_conv(graph, kernel=(17, 3)))
    assert (violation.rule, violation.node, violation.actual) == ("kernel", "conv", "17x3")
    assert violation.limit == "kernels of 1 to 16, at most 256 elements"
    assert violation.message == (
        "kernel: conv: found 17x3, allowed kernels of 1 to 16, at most 256 elements; keep it out of the prefix "
        "(--split) or take a smaller kernel"
    )


def test_a_node_without_a_name_is_called_by_what_it_makes(graph):
    made = graph()
    x = made.quantize(made.input("x", 1, 16, 8, 8))
    weight = made.weight("w", 16, 16, 1, 1)
    attributes = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "kernel_shape": [1, 1]}
    made.add("Conv", [x, weight], (1, 16, 8, 8), name="", **attributes)
    output = made.nodes[-1].outputs[0]
    violation = one(made.table(made.quantize(output)))
    assert (violation.node, violation.actual) == (f"Conv → {output}", "no group")


def test_refusing_lists_every_violation(graph):
    table = one_conv(graph, shape=(2, 16, 8, 8), strides=[1, 9], kernel=(17, 17))
    with pytest.raises(PlacementRefused) as caught:
        refuse(check_rules(table, KV260), "prefix", "DPUCZDX8G_ISA1_B4096")
    lines = str(caught.value).splitlines()
    assert lines[0] == "prefix: DPUCZDX8G_ISA1_B4096 would refuse it by batch, kernel, stride:"
    assert [line.split(":")[0] for line in lines[1:]] == ["  - batch", "  - kernel", "  - stride"]
    refuse((), "prefix", "DPUCZDX8G_ISA1_B4096")


# The graph as a whole.


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
    assert (violation.limit, violation.actual) == expected
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
    assert violation.actual == "23,552 bytes: 18,432 of weights and 5,120 of activations"
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


# Quantization.


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


# Limits of one DPU.


@pytest.mark.parametrize(
    ("profile", "changes", "expected"),
    [
        ("kv260", {"strides": [8, 8]}, []),
        ("kv260", {"strides": [8, 9]}, [("stride", "8x9")]),
        ("vek280", {"strides": [9, 16]}, []),
        ("vek280", {"strides": [9, 17]}, [("stride", "9x17")]),
        ("vck190", {"kernel": (8, 8)}, []),
        ("vck190", {"kernel": (13, 5)}, [("kernel", "13x5")]),
        ("vek280", {"kernel": (7, 7)}, []),
        ("vek280", {"kernel": (6, 9)}, [("kernel", "6x9")]),
        ("kv260", {"kernel": (3, 3), "pads": [2, 2, 2, 2]}, []),
        ("kv260", {"kernel": (3, 3), "pads": [2, 3, 2, 2]}, [("padding", "pads 2, 3, 2, 2")]),
        ("kv260", {"kernel": (3, 3), "dilations": [2, 1], "pads": [4, 2, 4, 2]}, []),
        ("kv260", {"kernel": (3, 3), "dilations": [2, 1], "pads": [5, 2, 4, 2]}, [("padding", "pads 5, 2, 4, 2")]),
    ],
)
def test_sizes_of_a_convolution(graph, profile, changes, expected):
    profile = load_profile(profile)
    table = one_conv(graph, shape=(profile.accelerator.batch, 16, 64, 64), **changes)
    assert [(rule, what) for rule, _, what in found(table, profile)] == expected


@pytest.mark.parametrize(
    ("profile", "channels", "changes", "expected"),
    [
        # 256 groups of 16 or 32; a kernel of 1 by 1 fits whatever the channels: 256 · 1 and 512 · 8 rows.
        ("kv260", 4096, {"kernel": (1, 1)}, []),
        ("kv260", 4097, {"kernel": (1, 1)}, [("input-channels", "4097")]),
        ("vek280", 8192, {"kernel": (1, 1)}, []),
        ("vek280", 8193, {"kernel": (1, 1)}, [("input-channels", "8193")]),
        ("kv260", 2048, {"kernel": (1, 1), "dilations": [2, 2]}, []),
        ("kv260", 2049, {"kernel": (1, 1), "dilations": [1, 2]}, [("input-channels", "2049 with dilation 2")]),
        # 16 · 16 · ⌈ic / 16⌉ · ⌈16 / 16⌉ ≤ 2048 holds up to 128 channels.
        ("kv260", 128, {"kernel": (16, 16)}, []),
        ("kv260", 129, {"kernel": (16, 16)}, [("weight-bank", "2304 rows for kernel 16x16, 129 input channels")]),
        # 7 · 7 · ⌈ic / 16⌉ · ⌈32 / 4⌉ ≤ 32768 holds up to 83 · 16 channels.
        ("vek280", 1328, {"kernel": (7, 7)}, []),
        ("vek280", 1329, {"kernel": (7, 7)}, [("weight-bank", "32928 rows for kernel 7x7, 1329 input channels")]),
        ("kv260", 16, {"kernel": (1, 1), "channels": 4096}, []),
        ("kv260", 16, {"kernel": (1, 1), "channels": 4097}, [("output-channels", "4097")]),
    ],
)
def test_channels_of_a_convolution(graph, profile, channels, changes, expected):
    profile = load_profile(profile)
    table = one_conv(graph, shape=(profile.accelerator.batch, channels, 4, 4), **changes)
    assert [(rule, what) for rule, _, what in found(table, profile)] == expected


@pytest.mark.parametrize(("op", "transposed"), [("MatMul", 0), ("Gemm", 0), ("Gemm", 1)])
def test_a_product_is_a_convolution_over_all_its_inputs(graph, op, transposed):
    def table(inner, outer):
        made = graph()
        x = made.quantize(made.input("x", 1, inner))
        shape = (outer, inner) if transposed else (inner, outer)
        attributes = {"transB": 1} if transposed else {}
        product = made.add(op, [x, made.weight("w", *shape)], (1, outer), name="product", **attributes)
        return made.table(made.quantize(product))

    assert check_rules(table(4096, 4096), KV260) == ()
    assert found(table(4097, 8)) == [("input-channels", "product", "4097")]
    assert found(table(8, 4097)) == [("output-channels", "product", "4097")]


def test_limits_are_not_those_of_depthwise_convolutions(graph):
    table = one_conv(graph, shape=(1, 8192, 32, 32), channels=8192, group=8192, kernel=(17, 17), strides=[9, 9])
    assert check_rules(table, KV260) == ()


@pytest.mark.parametrize(
    ("op", "attributes", "kv260", "vek280"),
    [
        ("Relu", {}, [], []),
        ("LeakyRelu", {"alpha": 26 / 256}, [], []),
        ("LeakyRelu", {"alpha": 0.1}, ["leaky_relu with alpha 0.1"], ["leaky_relu with alpha 0.1"]),
        ("LeakyRelu", {}, ["leaky_relu with alpha 0.01"], ["leaky_relu with alpha 0.01"]),
        ("HardSigmoid", {"alpha": 0.1666667}, ["hard_sigmoid"], []),
        ("HardSigmoid", {}, ["hard_sigmoid with alpha 0.2 and beta 0.5"], ["hard_sigmoid with alpha 0.2 and beta 0.5"]),
        ("HardSwish", {}, ["hard_swish"], []),
    ],
)
def test_activations(graph, op, attributes, kv260, vek280):
    for name, expected in (("kv260", kv260), ("vek280", vek280)):
        profile = load_profile(name)
        shape = (profile.accelerator.batch, 16, 8, 8)
        made = graph()
        conv = made.conv(made.quantize(made.input("x", *shape)), "conv")
        table = made.table(made.quantize(made.add(op, [conv], shape, name="activation", **attributes)))
        assert found(table, profile) == [("activation", "activation", what) for what in expected]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 6.0, []),
        (0.0, None, []),
        (0.0, 4.0, ["Clip from 0.0 to 4.0"]),
        (None, 6.0, ["Clip from None to 6.0"]),
        (0.0, "fed", ["Clip from 0.0 to high"]),
    ],
)
def test_bounds_of_a_clip(graph, low, high, expected):
    made = graph()
    conv = made.conv(made.quantize(made.input("x", 1, 16, 8, 8)), "conv")
    bounds = ["" if low is None else made.constant("low", value=low)]
    if high is not None:
        bounds.append(made.input("high") if high == "fed" else made.constant("high", value=high))
    table = made.table(made.quantize(made.add("Clip", [conv, *bounds], (1, 16, 8, 8), name="clip")))
    assert found(table) == [("activation", "clip", what) for what in expected]
    if expected:
        assert one(table).limit == "relu, relu6, leaky_relu with alpha 0.101562"
