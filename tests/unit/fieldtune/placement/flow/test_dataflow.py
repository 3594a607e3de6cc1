"""What reads and writes what, what is constant, and the quantization that a value carries."""

import pytest

from builders import Graph
from fieldtune.placement.flow.dataflow import OUTPUT, trace


@pytest.fixture
def made():
    return Graph()


def test_producers_and_consumers(made):
    x, w = made.input("x", 1, 4), made.constant("w", 4)
    total = made.add("Add", [x, w], (1, 4), name="add")
    twice = made.add("Mul", [total, total], (1, 4), name="mul")
    flow = trace(made.table(twice, total))
    assert flow.producer == {total: 0, twice: 1}
    assert flow.consumers == {x: (0,), w: (0,), total: (1, OUTPUT), twice: (OUTPUT,)}
    assert flow.producing(total).name == "add"
    assert flow.producing(x) is flow.producing(w) is None


def test_what_follows_from_constants_and_static_shapes_is_constant(made):
    x, dynamic, w = made.input("x", 2, 4), made.input("d", "batch", 4), made.constant("w", 4)
    root = made.add("Sqrt", [w], (4,), name="root")
    sizes = made.add("Shape", [x], (2,), name="sizes")
    both = made.add("Concat", [root, sizes], (6,), name="both")
    asked = made.add("Shape", [dynamic], (2,), name="asked")
    noise = made.add("RandomNormalLike", [w], (4,), name="noise")
    out = made.add("Mul", [x, both], (2, 4), name="out")
    flow = trace(made.table(out))
    assert flow.constants == {w, root, sizes, both}
    assert [flow.is_folded(index) for index in range(6)] == [True, True, True, False, False, False]
    assert [flow.is_operator(index) for index in range(6)] == [False, False, False, True, True, True]
    assert asked not in flow.constants
    assert noise not in flow.constants


def test_an_initializer_that_is_an_input_can_be_overridden(made):
    made.constant("w", 4)
    made.inputs.append("w")
    flow = trace(made.table(made.add("Sqrt", ["w"], (4,))))
    assert flow.constants == frozenset()


def test_a_weight_that_is_dequantized_is_no_operator_and_is_not_folded(made):
    weight = made.weight("w", 4, 4)
    flow = trace(made.table(weight))
    assert weight in flow.constants
    assert not flow.is_folded(0)
    assert not flow.is_operator(0)
    assert flow.carried(weight) == "w"
    assert flow.shape(weight) == (4, 4)


def test_quantizations_are_found_through_views_and_activations(made):
    x = made.quantize(made.input("x", 1, 4), 3)
    seen = made.add("Reshape", [x], (4,), name="seen")
    total = made.add("Add", [seen, made.quantize(made.input("y", 4), 5)], (4,), name="total")
    active = made.add("Relu", [total], (4,), name="active")
    out = made.quantize(active, 6)
    flow = trace(made.table(out, total))
    assert flow.read_as(seen).scale == (2.0**-3,)
    assert flow.read_as(total) is flow.read_as("x") is None
    assert [found and found.scale for found in flow.written_as(total)] == [(2.0**-6,), None]
    assert [found and found.scale for found in flow.written_as(active)] == [(2.0**-6,)]


def test_an_operator_is_found_before_quantizations(made):
    x = made.input("x", 1, 4)
    relu = made.add("Relu", [made.quantize(x)], (1, 4), name="relu")
    out = made.quantize(relu)
    flow = trace(made.table(out))
    assert flow.table.nodes[flow.operator_before(out)].name == "relu"
    assert flow.operator_before(relu) == flow.producer[relu]
    assert flow.operator_before(made.nodes[1].outputs[0]) is None
    quantized = made.nodes[0].outputs[0]
    assert list(flow.readers(quantized)) == [flow.producer[relu]]


def test_what_a_branch_captures_is_read(made):
    x, other = made.input("x", 1, 4), made.input("other", 1, 4)
    out = made.add("If", [x], (1, 4), then={"operators": ["Add"], "captured": [other]})
    assert trace(made.table(out)).consumers[other] == (0,)
