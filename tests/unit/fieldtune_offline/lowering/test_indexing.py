"""Every gather and scatter, against torch: several indices, slices before and between them, repeated places."""

import numpy as np
import pytest
import torch

from fieldtune.errors import UnsupportedModel
from fieldtune_offline.lowering import indexing

aten = torch.ops.aten

PUTS = (aten.index_put.default, aten._unsafe_index_put.default)
CASES = [
    (aten.nonzero.default, ("b[n,3]",), lambda op, x: op(x)),
    (aten.embedding.default, ("f[2,4]", "j[n,m]"), lambda op, w, i: op(w, i)),
    (aten.embedding.default, ("f[2,4]", "j[n,m]"), lambda op, w, i: op(w, i, 0)),
    (aten.index_select.default, ("f[n,2,3]", "j[m]"), lambda op, x, i: op(x, -2, i)),
    (aten.gather.default, ("f[n,2]", "j[n,5]"), lambda op, x, i: op(x, -1, i)),
    (aten.gather.default, ("f[n,2,4]", "j[n,2,1]"), lambda op, x, i: op(x, 1, i)),
    (aten.scatter.value, ("f[n,2]", "j[n,1]"), lambda op, x, i: op(x, -1, i, 1.5)),
    (aten.scatter.value, ("i[n,2]", "j[n,1]"), lambda op, x, i: op(x, 1, i, -1)),
    (aten.scatter.src, ("f[n,2]", "j[n,1]", "f[n,1]"), lambda op, x, i, y: op(x, 1, i, y)),
    (aten.scatter_add.default, ("f[n,2]", "j[n,5]", "f[n,5]"), lambda op, x, i, y: op(x, -1, i, y)),
    (aten.index.Tensor, ("f[n,2,3]", "j[m]"), lambda op, x, i: op(x, [None, i])),
    (aten.index.Tensor, ("f[2,3]", "j[n,m]"), lambda op, x, i: op(x, [i - 1])),
    (aten.index.Tensor, ("f[2,2,3]", "j[n,1]", "j[m]"), lambda op, x, i, j: op(x, [i, j - 1])),
    (aten.index.Tensor, ("f[n,2,2,3]", "j[m]", "j[m]"), lambda op, x, i, j: op(x, [None, i, j])),
    (aten.index.Tensor, ("f[n,2,2,2]", "j[m,1]", "j[2]", "j[]"), lambda op, x, *i: op(x, [None, *i])),
    (aten.index.Tensor, ("f[2,n,2]", "j[m]", "j[m]"), lambda op, x, i, j: op(x, [i, None, j])),
    (aten.index.Tensor, ("f[3,2,n,2,2]", "j[m,1]", "j[m]"), lambda op, x, i, j: op(x, [None, i, None, j])),
    *(
        case
        for op in PUTS
        for case in (
            (op, ("f[2,3]", "j[n]", "f[n,3]"), lambda op, x, i, y: op(x, [i], y, True)),
            (op, ("f[n,2]", "j[m]", "f[n,m]"), lambda op, x, i, y: op(x, [None, i - 1], y, True)),
            (op, ("f[2,3]", "j[n,m]", "f[3]"), lambda op, x, i, y: op(x, [i], y, True)),
            (op, ("i[2,3]", "j[n]", "i[n,3]"), lambda op, x, i, y: op(x, [i], y, True)),
            (op, ("f[2,2,3]", "j[n,1]", "j[m]", "f[n,m,3]"), lambda op, x, i, j, y: op(x, [i, j - 2], y, True)),
            (op, ("f[2,2]", "j[n]", "j[n]", "f[]"), lambda op, x, i, j, y: op(x, [i, j], y, True)),
            (op, ("f[2,n,2]", "j[m]", "j[m]", "f[m,n]"), lambda op, x, i, j, y: op(x, [i, None, j], y, True)),
            (op, ("f[n,2,3]", "f[n,1,3]"), lambda op, x, y: op(x, [None, torch.ones(1, dtype=torch.int64)], y)),
            (op, ("f[2,2]", "j[1]", "j[1]", "f[1]"), lambda op, x, i, j, y: op(x, [i, j], y)),
            (op, ("f[n,3]", "f[3]"), lambda op, x, y: op(x, [torch.arange(x.shape[0])], y)),
        )
    ),
]


@pytest.mark.parametrize("op", indexing.LOWERINGS, ids=str)
def test_the_graph_computes_what_torch_computes(check_cases, op):
    cases = [case for case in CASES if case[0] is op]
    assert cases
    check_cases(cases, core=op in PUTS)


def test_all_of_them_in_core_operators(check_cases):
    check_cases(CASES, core=True)


def test_many_additions_to_one_place_all_count_on_several_threads(lowered):
    import onnxruntime

    def gradient(ids, dy):
        return aten.embedding_dense_backward.default(dy, ids, 4, -1, False)

    model = lowered(gradient, ("j[n]", "f[n,64]"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ids, dy = np.zeros(20_000, np.int64), np.ones((20_000, 64), np.float32)
    for _ in range(10):
        (found,) = session.run(None, {"x0": ids, "x1": dy})
        np.testing.assert_array_equal(found, np.outer([20_000, 0, 0, 0], np.ones(64)))


def test_a_mask_as_an_index_is_refused(lowered):
    with pytest.raises(UnsupportedModel, match="a mask as an index"):
        lowered(lambda x, mask: torch.index_put(x, [mask], torch.zeros(())), ("f[n]", "b[n]"))


def test_a_source_larger_than_its_index_is_refused(lowered):
    with pytest.raises(UnsupportedModel, match="a source of another shape than its index"):
        lowered(lambda x, index, source: x.scatter(1, index, source), ("f[n,2]", "j[n,1]", "f[n,2]"))
