"""Every operator that makes, moves, cuts or joins tensors, against torch: negative axes, steps and starts, sizes."""

import pytest
import torch

from fieldtune_offline.lowering import movement

aten = torch.ops.aten


def zeros(x):
    return aten.zeros.default(list(x.shape))


CASES = [
    (aten.view.default, ("f[n,6]",), lambda op, x: op(x, [x.shape[0], 2, 3])),
    (aten.view.default, ("f[n,6]",), lambda op, x: op(x, [-1])),
    (aten.view.default, ("f[n,m,6]",), lambda op, x: op(x, [x.shape[0] * x.shape[1], 6])),
    (aten.view.default, ("f[n,m,6]",), lambda op, x: op(x, [x.shape[0], -1, 2])),
    (aten._unsafe_view.default, ("f[n,6]",), lambda op, x: op(x, [3, -1])),
    (aten.reshape.default, ("f[n,m,2]",), lambda op, x: op(x, [x.shape[1], x.shape[0] * 2])),
    (aten.reshape.default, ("f[0,n]",), lambda op, x: op(x, [x.shape[0], 0])),
    (aten.unsqueeze.default, ("f[n,3]",), lambda op, x: op(x, -1)),
    (aten.unsqueeze.default, ("f[n,3]",), lambda op, x: op(x, -3)),
    (aten.squeeze.default, ("f[1,3,1]",), lambda op, x: op(x)),
    (aten.squeeze.dim, ("f[n,1,3]",), lambda op, x: op(x, -2)),
    (aten.squeeze.dim, ("f[n,1,3]",), lambda op, x: op(x, 2)),
    (aten.squeeze.dims, ("f[1,n,1,3]",), lambda op, x: op(x, [0, -2])),
    (aten.permute.default, ("f[n,m,3]",), lambda op, x: op(x, [-1, 0, 1])),
    (aten.transpose.int, ("f[n,m,3]",), lambda op, x: op(x, -1, 0)),
    (aten.t.default, ("f[n,3]",), lambda op, x: op(x)),
    (aten.t.default, ("f[n]",), lambda op, x: op(x)),
    (aten.expand.default, ("f[n,1]",), lambda op, x: op(x, [2, -1, 3])),
    (aten.expand.default, ("f[1,3]", "f[n]"), lambda op, x, y: op(x, [y.shape[0], 3])),
    (aten.expand.default, ("b[1,3]", "f[n]"), lambda op, x, y: op(x, [y.shape[0], 3])),
    (aten.repeat.default, ("f[n,3]",), lambda op, x: op(x, [2, 1, 2])),
    (aten.repeat.default, ("i[3]", "f[n]"), lambda op, x, y: op(x, [y.shape[0], 1])),
    (aten.repeat.default, ("i[n]",), lambda op, x: op(x, [1])),
    (aten.slice.Tensor, ("f[n,8]",), lambda op, x: op(x, -1, 1, 7, 2)),
    (aten.slice.Tensor, ("f[n,8]",), lambda op, x: op(x, 1, -5, -1)),
    (aten.slice.Tensor, ("f[n,8]",), lambda op, x: op(x, 1, 0, torch.iinfo(torch.int64).max, 3)),
    (aten.slice.Tensor, ("f[n,8]",), lambda op, x: op(x, 1, 2, 100)),
    (aten.slice.Tensor, ("f[n,8]", "f[m]"), lambda op, x, y: op(x, 1, 0, y.shape[0])),
    (aten.slice.Tensor, ("f[n,3]",), lambda op, x: op(x, 0, 1, None)),
    (aten.slice.Tensor, ("f[n,3]",), lambda op, x: op(x, 0, 0, x.shape[0] - 1)),
    (aten.slice.Tensor, ("f[n,3]",), lambda op, x: op(x, 0, 0, -1)),
    (aten.select.int, ("f[n,4,3]",), lambda op, x: op(x, -2, -1)),
    (aten.select.int, ("f[n,4]",), lambda op, x: op(x, 0, x.shape[0] - 1)),
    (aten.cat.default, ("f[n,3]", "f[m,3]"), lambda op, x, y: op([x, y])),
    (aten.cat.default, ("f[n,3]", "i[n,2]"), lambda op, x, y: op([x, y], -1)),
    (aten.cat.default, ("f[n]",), lambda op, x: op([x])),
    (aten.split.Tensor, ("f[n,7]",), lambda op, x: op(x, 3, -1)),
    (aten.split_with_sizes.default, ("f[n,7]",), lambda op, x: op(x, [1, 4, 2], 1)),
    (torch.ops.fieldtune.zero_pad.default, ("f[n,2,3,4]",), lambda op, x: op(x, [0, 1, 2, 0])),
    (aten.constant_pad_nd.default, ("f[n,3]",), lambda op, x: op(x, [1, 2])),
    (aten.constant_pad_nd.default, ("f[n,4]",), lambda op, x: op(x, [-1, 1, 2, 0], 0.5)),
    (aten.constant_pad_nd.default, ("i[n]",), lambda op, x: op(x, [0, 1], -100)),
    (aten.constant_pad_nd.default, ("b[n,3]",), lambda op, x: op(x, [0, 1], True)),
    (aten.constant_pad_nd.default, ("f[3]", "f[n]"), lambda op, x, y: op(x, [y.shape[0], 0])),
    *(
        (aten.slice_scatter.default, ("f[n,8]", f"f[n,{width}]"), lambda op, x, y, place=place: op(x, y, 1, *place))
        for width, place in ((3, (2, 5)), (3, (0, 3)), (3, (5, 100)), (3, (-3,)), (3, (-5, -2)), (8, ()))
    ),
    *(
        (aten.slice_scatter.default, ("f[n,8]", f"f[n,{width}]"), lambda op, x, y, p=place: op(zeros(x), y, -1, *p))
        for width, place in ((3, (2, 5)), (3, (-3,)), (8, ()))
    ),
    (aten.slice_scatter.default, ("f[n,8]", "f[n,3]"), lambda op, x, y: op(x, y, 1, 1, 7, 2)),
    (aten.slice_scatter.default, ("f[n,8]", "f[n,3]"), lambda op, x, y: op(zeros(x), y, 1, -8, 8, 3)),
    (aten.slice_scatter.default, ("f[n,3]", "f[n,3]"), lambda op, x, y: op(x, y, 0, 0, x.shape[0])),
    (aten.slice_scatter.default, ("f[n,3]", "f[n,3]"), lambda op, x, y: op(torch.cat([x, x]), y, 0, x.shape[0])),
    (aten.slice_scatter.default, ("f[n,3]", "f[n,3]"), lambda op, x, y: op(zeros(torch.cat([x, x])), y, 0, x.shape[0])),
    (aten.slice_scatter.default, ("i[n,8]", "i[n,3]"), lambda op, x, y: op(x, y, 1, 2, 5)),
    *(
        (aten.select_scatter.default, ("f[n,4,m]", "f[n,m]"), lambda op, x, y, index=index: op(x, y, 1, index))
        for index in (0, 2, -1)
    ),
    (aten.select_scatter.default, ("f[n,3]", "f[3]"), lambda op, x, y: op(x, y, 0, x.shape[0] - 1)),
    (aten.select_scatter.default, ("i[n,3]", "i[n]"), lambda op, x, y: op(x, y, -1, -3)),
    (aten.copy.default, ("f[n,3]", "i[3]"), lambda op, x, y: op(x, y)),
    (aten.flip.default, ("f[n,3]",), lambda op, x: op(x, [0, -1])),
    (aten.flip.default, ("i[n,3]",), lambda op, x: op(x, [-2])),
    (aten.full.default, ("f[n]",), lambda op, x: op([x.shape[0], 2], 1.5)),
    (aten.full.default, ("f[n]",), lambda op, x: op([2], x.shape[0] * 2, dtype=torch.int64)),
    (aten.full.default, ("f[n]",), lambda op, x: op([x.shape[0]], True, dtype=torch.bool)),
    (aten.full_like.default, ("i[n,3]",), lambda op, x: op(x, float("-inf"), dtype=torch.float32)),
    (aten.new_full.default, ("f[n,3]",), lambda op, x: op(x, [x.shape[0]], 2)),
    (aten.scalar_tensor.default, ("f[n]",), lambda op, x: (op(0.25), op(x.shape[0] + 1, dtype=torch.int64))),
    (aten.zeros.default, ("f[n]",), lambda op, x: op([x.shape[0], 0], dtype=torch.int64)),
    (aten.zeros_like.default, ("b[n]",), lambda op, x: op(x)),
    (aten.new_zeros.default, ("i[n]",), lambda op, x: op(x, [2, x.shape[0]], dtype=torch.float32)),
    (aten.ones.default, ("f[n]",), lambda op, x: op([x.shape[0] + 1])),
    (aten.ones_like.default, ("f[n,3]",), lambda op, x: op(x, dtype=torch.bool)),
    (aten.new_ones.default, ("f[n]",), lambda op, x: op(x, [3])),
    (aten.arange.start_step, ("f[n]",), lambda op, x: op(0, x.shape[0])),
    (aten.arange.start_step, ("f[n]",), lambda op, x: op(x.shape[0], 0, -2)),
    (aten.arange.start_step, ("f[n]", "f[m]"), lambda op, x, y: op(x.shape[0], x.shape[0] + y.shape[0] * 2, 2)),
    (aten.arange.start_step, ("f[n]",), lambda op, x: op(0, x.shape[0], dtype=torch.float32)),
    (aten.arange.start_step, ("f[n]",), lambda op, x: op(0.5, 3.0, 0.75)),
    (aten.tril.default, ("f[n,m]",), lambda op, x: op(x)),
    (aten.tril.default, ("b[n,m]",), lambda op, x: op(x, -1)),
    (aten.tril.default, ("i[n,m]",), lambda op, x: op(aten._to_copy.default(x, dtype=torch.int32))),
    (aten.triu.default, ("f[n,m]",), lambda op, x: op(x, 1)),
    (aten.triu.default, ("i[2,n,m]",), lambda op, x: op(x, x.shape[1] - 1)),
]

# What torch leaves uninitialized cannot be compared, only what overwrites it.
UNINITIALIZED = [
    (aten.empty.memory_format, lambda op, x: op([x.shape[0], 3])),
    (aten.empty_like.default, lambda op, x: op(x)),
    (aten.empty_permuted.default, lambda op, x: op([x.shape[0], 3], [0, 1])),
    (aten.new_empty.default, lambda op, x: op(x, [x.shape[0], 3])),
    (aten.new_empty_strided.default, lambda op, x: op(x, [x.shape[0], 3], [3, 1])),
    (aten.empty_strided.default, lambda op, x: op([x.shape[0], 3], [3, 1])),
]
CASES += [
    (op, ("f[n,3]",), lambda op, x, make=make: aten.full_like.default(make(op, x), 2)) for op, make in UNINITIALIZED
]


@pytest.mark.parametrize("op", movement.LOWERINGS, ids=str)
def test_the_graph_computes_what_torch_computes(check_cases, op):
    cases = [case for case in CASES if case[0] is op]
    assert cases
    check_cases(cases, tolerance=0)


def test_all_of_them_in_core_operators(check_cases):
    check_cases(CASES, core=True, tolerance=0)


def test_a_part_of_zeros_becomes_padding(lowered):
    model = lowered(lambda x: torch.slice_scatter(x.new_zeros(x.shape[0], 8), x, 1, 2, 5), ("f[n,3]",))
    assert [node.op_type for node in model.graph.node if node.op_type != "Identity"] == ["Pad"]


def test_movements_that_cancel_are_not_made(lowered):
    def function(x):
        y = x.transpose(1, 2).permute(2, 1, 0).permute(2, 1, 0).transpose(1, 2)
        return y.reshape(-1, 6).reshape(x.shape) + 1

    assert [node.op_type for node in lowered(function, ("f[n,m,6]",)).graph.node] == ["Add"]
