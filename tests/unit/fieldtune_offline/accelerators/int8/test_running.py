"""Graphs and single operators in memory."""

import numpy as np

from fieldtune_offline.accelerators.int8.running import Operator, open_model

TEXT = "test (float[2,3] x) => (float[2,2] y) { a = MatMul(x, w) r = Relu(a) y = Identity(r) }"
W = np.array([[1, 0], [0, 1], [1, -1]], np.float32)
X = np.array([[1, 2, 3], [-1, -2, -3]], np.float32)


def test_values_inside_are_given_beside_the_outputs_and_the_graph_stays(graph):
    model = graph(TEXT, w=W)
    session = open_model(model, ["a", "y"])
    assert [output.name for output in session.get_outputs()] == ["y", "a"]
    a, y = session.run(["a", "y"], {"x": X})
    np.testing.assert_array_equal(a, X @ W)
    np.testing.assert_array_equal(y, np.maximum(X @ W, 0))
    assert [value.name for value in model.graph.outputs] == ["y"]


def test_an_operator_by_itself_with_other_constants_than_its_own(graph):
    model = graph(TEXT, w=W)
    product = model.graph[0]
    plain, doubled = Operator(product, model, {}), Operator(product, model, {"w": 2 * W})
    assert (plain.reads, plain.writes) == (("x",), ("a",))
    np.testing.assert_array_equal(plain.run({"x": X, "unused": X})[0], X @ W)
    np.testing.assert_array_equal(doubled.run({"x": X})[0], 2 * X @ W)
    np.testing.assert_array_equal(product.inputs[1].const_value.numpy(), W)
