"""Sizes that are computed from sizes, or from data."""

import pytest
import sympy
import torch

from fieldtune.errors import UnsupportedModel
from fieldtune_offline.lowering import GraphBuilder
from fieldtune_offline.lowering.shapes import Shapes, dim_of, size_of

LARGE = ({"n": 8, "m": 12}, {"n": 20, "m": 2}, {"n": 2, "m": 64})


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda x, y: x.new_zeros(x.shape[0] * y.shape[0] + 1), id="sum and product"),
        pytest.param(lambda x, y: x.new_zeros(x.shape[0] - y.shape[0] + 100), id="difference"),
        pytest.param(lambda x, y: x.new_zeros(x.shape[0] // 3, y.shape[0] // 2 * 2), id="quotient"),
        pytest.param(lambda x, y: x.new_zeros((x.shape[0] + 7) // 8 * 8), id="rounded up"),
        pytest.param(lambda x, y: x.new_zeros(y.shape[0] % 5), id="remainder"),
        pytest.param(lambda x, y: x.new_zeros(x.shape[0] ** 2), id="power"),
        pytest.param(lambda x, y: x.new_zeros(torch.sym_min(x.shape[0], y.shape[0])), id="minimum"),
        pytest.param(lambda x, y: x.new_zeros(torch.sym_max(x.shape[0], y.shape[0] - 1)), id="maximum"),
        pytest.param(lambda x, y: x.new_zeros(2 * x.shape[0], 4).view(x.shape[0] // 2, -1), id="-1 of a quotient"),
        pytest.param(lambda x, y: x.expand(y.shape[0], -1).reshape(-1) + y.repeat_interleave(1)[0], id="flattened"),
        pytest.param(lambda x, y: torch.arange(x.shape[0] * 2)[y.shape[0] // 64 :], id="a slice's start"),
        pytest.param(lambda x, y: x + x.shape[0] * y.shape[0] - 1, id="a size as a number"),
        pytest.param(lambda x, y: x / torch.tensor(x.shape[0]), id="a size as a tensor"),
    ],
)
def test_a_computed_size(check, function):
    check(function, ("f[n]", "f[m]"), sizes=LARGE)


def test_a_size_that_depends_on_data_may_be_0(check):
    def rows(x, mask):
        places = torch.nonzero(mask).squeeze(1)
        torch._check(places.shape[0] <= mask.shape[0])
        picked = x.index_select(0, places)
        return picked, picked.reshape(-1, 3, 2).sum((0, 1)), torch.log_softmax(picked, -1).sum()

    check(rows, ("f[n,6]", "b[n]"))
    check(lambda x, mask: rows(x, mask & False), ("f[n,6]", "b[n]"))


def test_products_and_their_gradients_over_no_rows(check):
    layer = torch.nn.Linear(6, 5)

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, mask):
            places = torch.nonzero(mask & False).squeeze(1)
            torch._check(places.shape[0] <= mask.shape[0])
            picked = x.index_select(0, places)
            y = self.layer(picked)
            back = torch.zeros_like(x).index_add(0, places, y @ self.layer.weight)
            return y, back, y.T @ picked, y.sum(0)

    check(Module(), ("f[n,6]", "b[n]"))


def test_a_size_of_0_is_no_copy(check):
    check(lambda x: x[:, :0].reshape(0, x.shape[0]), ("f[n,4]",))
    check(lambda x: x[:, :0].reshape(x.shape[0], 2, 0), ("f[n,4]",))


def test_a_reshape_needs_no_shape_nodes_where_copies_and_one_inference_say_it(lowered):
    model = lowered(lambda x: x.reshape(x.shape[0], x.shape[1], 2, 3).exp().reshape(-1, 6), ("f[n,m,6]",))
    assert [node.op_type for node in model.graph.node] == ["Reshape", "Exp", "Reshape"]


def test_a_size_is_read_once_however_often_it_is_asked_for(lowered):
    def function(x, y):
        for _ in range(5):
            y = (y + 1).expand(x.shape[0], x.shape[1], 3).sum((0, 1))
        return y

    made = [node.op_type for node in lowered(function, ("f[n,m]", "f[3]")).graph.node]
    assert made.count("Shape") == 2
    assert made.count("Concat") == 1
    assert made.count("Expand") == 5


def test_what_cannot_be_computed_is_refused_with_its_formula():
    batch = sympy.Symbol("batch", integer=True, positive=True)
    shapes = Shapes(GraphBuilder(), {})
    shapes.learn(GraphBuilder().source("x", torch.float32, [batch]))
    assert shapes.size(batch).dims == (1,)
    with pytest.raises(UnsupportedModel, match=r"a size is computed as 2\*\*batch; only sums"):
        shapes.size(2**batch)
    with pytest.raises(UnsupportedModel, match=r"computed from sizes as 1\.5; expected an integer"):
        dim_of(1.5, {})


def test_the_size_of_a_shape():
    batch = sympy.Symbol("batch", integer=True, positive=True)
    assert size_of(()) == 1
    assert size_of((2, 3)) == 6
    assert size_of((2, batch, batch)) == 2 * batch**2
