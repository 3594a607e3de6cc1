"""An operator call as lowerings read it: arguments by name, axes from the front, numbers as tensors."""

import numpy as np
import pytest
import sympy
import torch
from torch import nn

from fieldtune_offline.lowering import GraphBuilder
from fieldtune_offline.lowering.call import Call
from fieldtune_offline.lowering.shapes import Shapes
from fieldtune_offline.quiet import quiet_tracing

aten = torch.ops.aten


@pytest.fixture
def call():
    """The function from an operator and a function of x (float32, [n, 3]) and i (int64, [n]) to the operator's call."""

    def find(target, function):
        class Net(nn.Module):
            def forward(self, x, i):
                return function(x, i)

        vary = {0: torch.export.Dim.DYNAMIC}
        with quiet_tracing():
            program = torch.export.export(
                Net(), (torch.ones(4, 3), torch.ones(4, dtype=torch.int64)), dynamic_shapes=(vary, vary), strict=False
            )
        build = GraphBuilder()
        first = next(iter(program.graph.nodes)).meta["val"].shape[0]
        n = sympy.Symbol("n", integer=True, positive=True)
        shapes, environment = Shapes(build, {first.node.expr: n}), {}
        for node in program.graph.nodes:
            value = node.meta.get("val")
            if isinstance(value, torch.Tensor):
                environment[node] = build.source(node.name, value.dtype, shapes.dims(value.shape))
                shapes.learn(environment[node])
        (node,) = (node for node in program.graph.nodes if node.target is target)
        return Call(node, environment, build, shapes)

    return find


def test_arguments_go_by_their_names_and_have_the_schemas_defaults(call):
    found = call(aten.sum.dim_IntList, lambda x, _: x.sum(dim=[-1]))
    assert (found.raw("dim"), found.raw("keepdim"), found.has("dtype")) == ([-1], False, False)
    assert found.axes("dim", 2) == [1]
    assert (found.dtype, [str(dim) for dim in found.dims]) == (torch.float32, ["n"])
    assert found.tensor("self").value.name == "x"


def test_no_axes_are_all_axes(call):
    assert call(aten.sum.dim_IntList, lambda x, _: x.sum(dim=())).axes("dim", 3) == [0, 1, 2]


def test_an_axis_is_counted_from_the_front(call):
    found = call(aten.cumsum.default, lambda x, _: x.cumsum(-1))
    assert found.axis("dim", 2) == 1
    assert found.axis("dim", 0) == 0


def test_numbers_and_sizes_become_tensors_of_the_dtype_that_is_asked_for(call):
    found = call(aten.add.Tensor, lambda x, _: x + 2)
    two = found.operand("other", torch.float32)
    np.testing.assert_array_equal(found.build.constant_of(two), np.float32(2))
    found = call(aten.mul.Tensor, lambda x, _: x * x.shape[0])
    count = found.operand("other", torch.float32)
    assert (count.dtype, count.dims) == (torch.float32, ())
    assert [node.op_type for node in found.build.nodes][-1] == "Cast"
    assert found.operand("self", torch.float32) is found.tensor("self")


@pytest.mark.parametrize(
    ("target", "function", "dtype"),
    [
        (aten.gt.Tensor, lambda x, i: i > x.sum(-1), torch.float32),
        (aten.gt.Tensor, lambda _, i: i > i + 1, torch.int64),
        (aten.gt.Scalar, lambda _, i: i > 2, torch.int64),
        (aten.gt.Scalar, lambda _, i: i > 2.5, torch.float32),
        (aten.gt.Scalar, lambda x, _: x.double() > 2.5, torch.float64),
    ],
)
def test_what_is_compared_has_the_dtype_that_torch_takes(call, target, function, dtype):
    assert call(target, function).common_dtype("self", "other") == dtype


def test_a_node_has_the_calls_own_result(call):
    found = call(aten.relu.default, lambda x, _: x.relu())
    result = found.emit("Relu", found.tensor("self"))
    assert (result.dtype, [str(dim) for dim in result.dims]) == (torch.float32, ["n", "3"])
    assert found.build.nodes[-1].op_type == "Relu"
