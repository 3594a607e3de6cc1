"""Which operators a compiler takes, seen one by one; whole graphs are in test_plan."""

import pytest

from builders import Graph, node, profile
from fieldtune.hardware import Accelerator
from fieldtune.placement.flow.dataflow import trace
from fieldtune.placement.flow.offload import data_inputs, is_depthwise, left_by_kind, left_to_cpu

DPU = profile(accelerator=Accelerator(target="DPUX", family="dpu")).accelerator
NPU = profile(accelerator=Accelerator(target="AIE", family="npu")).accelerator


def reasons(made, *outputs, accelerator=DPU):
    table = made.table(*outputs)
    return {table.nodes[index].name: reason for index, reason in left_to_cpu(trace(table), accelerator).items()}


@pytest.mark.parametrize(
    ("op", "inputs", "expected"),
    [
        ("Conv", ["x", "w", "b"], ("x", "w", "b")),
        ("Gemm", ["x", "w", ""], ("x", "w")),
        ("Concat", ["x", "y"], ("x", "y")),
        ("Reshape", ["x", "sizes"], ("x",)),
        ("Resize", ["x", "", "scales"], ("x",)),
        ("Constant", [], ()),
    ],
)
def test_sizes_and_bounds_are_no_data(op, inputs, expected):
    assert data_inputs(node(op, inputs, ["y"])) == expected


def test_a_depthwise_convolution_has_a_group_for_each_channel():
    made = Graph()
    x = made.quantize(made.input("x", 1, 16, 8, 8))
    out = [made.conv(x, name, group=group) for name, group in (("whole", 1), ("each", 16), ("pairs", 8))]
    table = made.table(*out)
    flow = trace(table)
    found = {one.name: is_depthwise(flow, one) for one in table.nodes if one.op == "Conv"}
    assert found == {"whole": False, "each": True, "pairs": False}
    assert reasons(made, *out) == {"pairs": "a convolution in 8 groups of several channels"}


@pytest.mark.parametrize(("accelerator", "called"), [(DPU, "a DPU"), (NPU, "an NPU")])
def test_what_no_compiler_takes_is_told_with_the_kind_of_accelerator(accelerator, called):
    made = Graph()
    x = made.quantize(made.input("x", 1, 4))
    soft = made.quantize(made.add("Softmax", [x], (1, 4), name="softmax"))
    large = made.add("Resize", [soft], (1, 8), name="resize", mode="cubic")
    assert reasons(made, large, accelerator=accelerator) == {
        "softmax": f"Softmax runs on the CPU on {called}",
        "resize": f"Resize with mode 'cubic' runs on the CPU on {called}",
    }


def test_products_and_convolutions_of_computed_weights_are_left():
    made = Graph()
    x, y = made.quantize(made.input("x", 4, 4)), made.quantize(made.input("y", 4, 4))
    product = made.add("MatMul", [x, y], (4, 4), name="product")
    image, kernel = made.quantize(made.input("i", 1, 4, 8, 8)), made.quantize(made.input("k", 4, 4, 3, 3))
    conv = made.add("Conv", [image, kernel], (1, 4, 6, 6), name="conv")
    assert reasons(made, product, conv) == {
        "product": "a product of two activations",
        "conv": "its weights are computed",
    }


def test_convolutions_of_other_forms_are_left():
    made = Graph()
    line = made.quantize(made.input("l", 1, 4, 8))
    one = made.add("Conv", [line, made.weight("w1", 4, 4, 3)], (1, 4, 6), name="line")
    image = made.quantize(made.input("i", 1, 4, 8, 8))
    two = made.add(
        "ConvTranspose", [image, made.weight("w2", 4, 4, 2, 2)], (1, 4, 17, 17), name="padded", output_padding=[1, 1]
    )
    assert reasons(made, one, two) == {
        "line": "a convolution of other than two dimensions",
        "padded": "a transposed convolution with output_padding",
    }


def test_only_operators_without_weights_are_judged_by_quantization():
    made = Graph()
    plain, quantized = made.input("x", 1, 16, 8, 8), made.quantize(made.input("q", 1, 16, 8, 8))
    conv = made.conv(plain, "conv")
    read = made.quantize(made.add("Add", [plain, quantized], (1, 16, 8, 8), name="read"))
    written = made.add("Mul", [quantized, quantized], (1, 16, 8, 8), name="written")
    fused = made.quantize(made.add("Relu", [conv], (1, 16, 8, 8), name="fused"))
    table = made.table(read, written, fused)
    assert reasons(made, read, written, fused) == {
        "read": "what it reads is not quantized",
        "written": "what it writes is not quantized",
    }
    (node_of_conv,) = [one for one in table.nodes if one.name == "conv"]
    assert left_by_kind(trace(table), node_of_conv, DPU) == ""
