"""What one convolution, product or activation may be on a DPU."""

import pytest

from fieldtune.hardware import load_profile
from fieldtune.placement.rules import check_rules
from rule_checks import KV260, found, one, one_conv


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
