"""Every product and reduction, against torch, and how a product reads its weight."""

import pytest
import torch

from fieldtune.errors import UnsupportedModel
from fieldtune_offline.lowering import contraction

aten = torch.ops.aten

WHOLE = (aten.sum.default, aten.mean.default, aten.amax.default, aten.amin.default, aten.max.default, aten.min.default)
ALONG = (aten.sum.dim_IntList, aten.mean.dim, aten.amax.default, aten.amin.default)
CASES = [
    (aten.mm.default, ("f[n,5]", "f[5,m]"), lambda op, x, y: op(x, y)),
    (aten.mm.default, ("f[5,n]", "f[m,5]"), lambda op, x, y: op(x.permute(1, 0), y.permute(1, 0))),
    (aten.addmm.default, ("f[m]", "f[n,5]", "f[m,5]"), lambda op, c, x, y: op(c, x, y.permute(1, 0))),
    (aten.addmm.default, ("f[n,1]", "f[5,n]", "f[5,m]"), lambda op, c, x, y: op(c, x.permute(1, 0), y)),
    (aten.addmm.default, ("f[m]", "f[n,5]", "f[5,m]"), lambda op, c, x, y: op(c, x, y, beta=0.5, alpha=-2)),
    (aten.mv.default, ("f[n,5]", "f[5]"), lambda op, x, y: op(x, y)),
    (aten.bmm.default, ("f[2,n,5]", "f[2,5,m]"), lambda op, x, y: op(x, y)),
    (aten.bmm.default, ("f[n,3,5]", "f[n,m,5]"), lambda op, x, y: op(x, y.permute(0, 2, 1))),
    *(
        (aten.baddbmm.default, ("f[m]", "f[2,n,5]", "f[2,5,m]"), lambda op, c, x, y, kw=kw: op(c, x, y, **kw))
        for kw in ({}, {"beta": 0}, {"beta": 2, "alpha": 0.5})
    ),
    *((op, ("f[n,m]",), lambda op, x: op(x)) for op in WHOLE),
    (aten.sum.default, ("b[n,3]",), lambda op, x: op(x)),
    (aten.sum.default, ("i[n]",), lambda op, x: op(x, dtype=torch.float32)),
    (aten.sum.default, ("f[]",), lambda op, x: op(x)),
    (aten.max.default, ("i[n]",), lambda op, x: op(x)),
    *((op, ("f[n,m,3]",), lambda op, x: op(x, [-1, 0])) for op in ALONG),
    *((op, ("f[n,m,3]",), lambda op, x: op(x, [1], True)) for op in ALONG),
    (aten.sum.dim_IntList, ("f[n,3]",), lambda op, x: op(x, [])),
    (aten.sum.dim_IntList, ("f[n,3]",), lambda op, x: op(x, None, True)),
    (aten.sum.dim_IntList, ("b[n,3]",), lambda op, x: op(x, [0])),
    (aten.amax.default, ("b[n,3]",), lambda op, x: op(x, [-1])),
    (aten.amin.default, ("i[n,3]",), lambda op, x: op(x, [0], True)),
    (aten.prod.dim_int, ("f[n,3]",), lambda op, x: op(x, -1)),
    (aten.prod.dim_int, ("i[n,3]",), lambda op, x: op(x, 1, True)),
    *((op, ("b[n,3]",), lambda op, x: op(x)) for op in (aten.any.default, aten.all.default)),
    *((op, (spec,), lambda op, x: op(x, -1)) for op in (aten.any.dim, aten.all.dim) for spec in ("b[n,3]", "j[n,3]")),
    (aten.any.dim, ("f[n,3]",), lambda op, x: op(x, 0, True)),
    (aten.any.dims, ("b[n,m,3]",), lambda op, x: op(x, [0, -1])),
    *((op, ("f[n,m]",), lambda op, x: op(x)) for op in (aten.argmax.default, aten.argmin.default)),
    *((op, ("i[n,m]",), lambda op, x: op(x, -1)) for op in (aten.argmax.default, aten.argmin.default)),
    *((op, ("j[n,m]",), lambda op, x: op(x, 0, True)) for op in (aten.argmax.default, aten.argmin.default)),
    *((op, ("f[n,m]",), lambda op, x: op(x, None, True)) for op in (aten.argmax.default, aten.argmin.default)),
    *((op, ("f[n,m]",), lambda op, x: op(x, -1)) for op in (aten.max.dim, aten.min.dim)),
    *((op, ("f[n,m]",), lambda op, x: op(x, 0, True)) for op in (aten.max.dim, aten.min.dim)),
    *((op, ("i[n,m]",), lambda op, x: op(x, 1)) for op in (aten.max.dim, aten.min.dim)),
    (aten.cumsum.default, ("f[n,m]",), lambda op, x: op(x, -1)),
    (aten.cumsum.default, ("b[n,m]",), lambda op, x: op(x, 0)),
    (aten.cumsum.default, ("i[n]",), lambda op, x: op(x, 0, dtype=torch.float32)),
    (aten.cumsum.default, ("f[]",), lambda op, x: op(x, 0)),
    (aten.var.correction, ("f[n,6]",), lambda op, x: op(x, [-1])),
    (aten.var.correction, ("f[n,6]",), lambda op, x: op(x, [1], correction=0, keepdim=True)),
    (aten.var.dim, ("f[n,6]",), lambda op, x: op(x, [-1], False)),
    (aten.var_mean.correction, ("f[n,2,6]",), lambda op, x: op(x, [-1, 1], correction=2)),
    (aten.var_mean.correction, ("f[n,6]",), lambda op, x: op(x, [1], correction=0, keepdim=True)),
]


@pytest.mark.parametrize("op", contraction.LOWERINGS, ids=str)
def test_the_graph_computes_what_torch_computes(check_cases, op):
    cases = [case for case in CASES if case[0] is op]
    assert cases
    check_cases(cases, tolerance=2e-6)


def test_all_of_them_in_core_operators(check_cases):
    check_cases(CASES, core=True, tolerance=2e-6)


def test_a_linear_layer_and_its_backward_read_one_weight_as_it_lies(lowered):
    layer = torch.nn.Linear(3, 5)

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, dy):
            return self.layer(x), dy @ self.layer.weight

    model = lowered(Module(), ("f[n,3]", "f[n,5]"))
    nodes = [(node.op_type, {a.name: a.i for a in node.attribute}, node.input[1]) for node in model.graph.node]
    assert [op_type for op_type, _, _ in nodes] == ["Gemm", "Gemm"]
    assert [attributes["transB"] for _, attributes, _ in nodes] == [1, 0]
    assert {weight for _, _, weight in nodes} == {"of.layer.weight"}


def test_a_batched_linear_layer_is_a_product_of_2d_views(lowered):
    model = lowered(torch.nn.Sequential(torch.nn.Linear(3, 5)), ("f[n,m,3]",))
    made = [node.op_type for node in model.graph.node]
    assert made.count("Gemm") == 1
    assert not {"Transpose", "MatMul"} & set(made)


def grouped_attention(q, k, v):
    """Attention of 6 heads that share 2 keys and values: (batch, heads, positions, width), as in transformers."""
    batch, _, positions, width = k.shape
    k, v = (x[:, :, None].expand(batch, 2, 3, positions, width).reshape(batch, 6, positions, width) for x in (k, v))
    return torch.matmul(torch.matmul(q, k.transpose(2, 3)).softmax(-1), v)


def test_shared_keys_and_values_are_multiplied_without_a_copy_for_each_head(lowered, check):
    specs = ("f[n,6,m,5]", "f[n,2,m,5]", "f[n,2,m,5]")
    model = lowered(grouped_attention, specs)
    made = [node.op_type for node in model.graph.node]
    assert made.count("MatMul") == 2
    assert "Expand" not in made
    check(grouped_attention, specs, tolerance=2e-6)


def test_heads_are_multiplied_as_they_are(lowered):
    specs = ("f[n,3,m,5]", "f[n,3,m,5]")
    made = [node.op_type for node in lowered(lambda q, k: torch.matmul(q, k.transpose(2, 3)), specs).graph.node]
    assert made == ["Transpose", "MatMul"]


@pytest.mark.parametrize("shared", [(2, 1), (1, 2)], ids=str)
def test_two_factors_that_are_both_shared_are_multiplied_as_torch_has_them(check, shared):
    def product(x, y):
        one, other = (z.expand(*shape, *z.shape[-2:]) for z, shape in ((x, (2, 2)), (y, (2, 2))))
        return torch.bmm(one.reshape(4, 3, 5), other.reshape(4, 5, 3))

    specs = (f"f[{shared[0]},1,3,5]", f"f[{shared[0]},1,5,3]")
    check(product, specs, tolerance=2e-6)


def test_a_variance_over_an_axis_that_varies_is_refused(lowered):
    with pytest.raises(UnsupportedModel, match=r"var.*axis whose size varies"):
        lowered(lambda x: aten.var.correction(x, [0]), ("f[n,3]",))
