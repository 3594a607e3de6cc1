"""theta cut into tensors, and gradients joined in the same order, as ONNX Runtime computes it."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from builders import layout, parameter
from fieldtune_offline.lowering import GraphBuilder
from fieldtune_offline.passes.flatten_parameters import join_gradients, split_theta

LAYOUT = layout(
    parameter("a", {"rank": 2, "in_features": 3}), parameter("b", {"out": 4}), parameter("c", {"out": 1, "rank": 2})
)


@pytest.fixture
def run():
    """The function that computes values of a graph from theta = 0, 1, 2, …"""

    def compute(build, inputs, outputs):
        for index, tensor in enumerate(outputs):
            tensor.value.name = f"y{index}"
        graph = ir.Graph(
            [tensor.value for tensor in inputs],
            [tensor.value for tensor in outputs],
            nodes=build.nodes,
            initializers=build.initializers,
            opset_imports={"": 18},
            name="g",
        )
        data = ir.to_proto(ir.Model(graph, ir_version=8)).SerializeToString()
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        return session.run(None, {"theta": np.arange(12, dtype=np.float32)})

    return compute


def test_each_tensor_is_its_piece_in_its_own_shape(run):
    build = GraphBuilder()
    theta, pieces = split_theta(build, LAYOUT)
    assert theta.dims == (12,)
    assert list(pieces) == ["a", "b", "c"]
    a, b, c = run(build, [theta], list(pieces.values()))
    np.testing.assert_array_equal(a, [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(b, [6, 7, 8, 9])
    np.testing.assert_array_equal(c, [[10, 11]])


def test_gradients_come_back_in_the_layouts_order_and_zeros_where_there_is_none(run):
    build = GraphBuilder()
    theta, pieces = split_theta(build, LAYOUT)
    doubled = build.op("Add", [pieces["a"], pieces["a"]], torch.float32, (2, 3))
    joined = join_gradients(build, LAYOUT, {"c": pieces["c"], "a": doubled})
    assert joined.dims == (12,)
    (found,) = run(build, [theta], [joined])
    np.testing.assert_array_equal(found, [0, 2, 4, 6, 8, 10, 0, 0, 0, 0, 10, 11])


def test_a_single_tensor_needs_no_join():
    build = GraphBuilder()
    one = layout(parameter("a", {"rank": 2, "in_features": 3}))
    _, pieces = split_theta(build, one)
    join_gradients(build, one, pieces)
    assert "Concat" not in [node.op_type for node in build.nodes]
