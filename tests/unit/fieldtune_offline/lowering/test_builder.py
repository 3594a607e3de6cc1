"""What the graph under construction promises: no node twice, no movement for nothing; and what is refused."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from fieldtune.errors import UnsupportedModel
from fieldtune_offline.lowering import PACKED, GraphBuilder
from fieldtune_offline.lowering.needed import needed_nodes, values_read


def source(build, name="x", dims=(2, 3)):
    return build.source(name, torch.float32, dims)


def test_an_equal_node_is_the_same_node():
    build = GraphBuilder()
    x, y = source(build), source(build, "y")
    first = build.op("Add", [x, y], torch.float32, (2, 3))
    assert build.op("Add", [x, y], torch.float32, (2, 3)) is first
    assert build.op("Add", [y, x], torch.float32, (2, 3)) is not first
    softmax = build.op("Softmax", [x], torch.float32, (2, 3), axis=1)
    assert build.op("Softmax", [x], torch.float32, (2, 3), axis=0) is not softmax
    assert build.op("Softmax", [x], torch.float32, (2, 3), axis=1) is softmax
    assert [node.op_type for node in build.nodes] == ["Add", "Add", "Softmax", "Softmax"]


def test_an_operator_of_another_domain_has_that_before_its_name():
    build = GraphBuilder()
    x = source(build)
    own = build.op("Gelu", [x], torch.float32, (2, 3))
    contributed = build.op("com.microsoft::Gelu", [x], torch.float32, (2, 3))
    assert build.op("com.microsoft::Gelu", [x], torch.float32, (2, 3)) is contributed is not own
    assert [(node.domain, node.op_type, node.name) for node in build.nodes] == [
        ("", "Gelu", "Gelu_0"),
        ("com.microsoft", "Gelu", "Gelu_1"),
    ]
    assert contributed.value.name == "Gelu_1_0"


def test_what_is_made_of_a_twin_is_made_again():
    build = GraphBuilder()
    weight = source(build, "w")
    weight.value.meta[PACKED] = True
    twin = build.twin(weight)
    assert build.twin(weight) is twin is not weight
    assert (twin.value.name, twin.dtype, twin.dims) == ("w@backward", torch.float32, (2, 3))
    assert twin.value.meta[PACKED]
    assert build.twins == {"w@backward": twin}
    once, again = (build.op("Neg", [x], torch.float32, (2, 3)) for x in (weight, twin))
    assert once is not again
    assert build.op("Neg", [build.twin(weight)], torch.float32, (2, 3)) is again
    assert len(build.nodes) == 2


def test_equal_constants_are_one_and_different_ones_are_not():
    build = GraphBuilder()
    one = build.constant(1, torch.float32)
    assert build.constant(1.0, torch.float32) is one
    others = [
        build.constant(1, torch.int64),
        build.constant([1], torch.float32),
        build.constant(-0.0, torch.float32),
        build.constant(0.0, torch.float32),
    ]
    assert len({id(tensor.value) for tensor in (one, *others)}) == 5
    assert len(build.initializers) == 5


def test_transpositions_that_cancel_vanish():
    build = GraphBuilder()
    x = source(build, dims=(2, 3, 4))
    turned = build.transpose(x, [2, 0, 1])
    assert turned.dims == (4, 2, 3)
    assert build.transpose(turned, [1, 2, 0]) is x
    assert build.transpose(x, [0, 1, 2]) is x
    twice = build.transpose(turned, [1, 0, 2])
    assert list(twice.value.producer().attributes["perm"].as_ints()) == [0, 2, 1]
    assert twice.value.producer().inputs[0] is x.value


def test_a_cast_is_made_only_where_the_dtype_is_another():
    build = GraphBuilder()
    x = source(build)
    assert build.cast(x, torch.float32) is x
    assert build.cast(x, torch.int64).dtype == torch.int64
    constant = build.cast(build.constant([1.7, -1.7], torch.float32), torch.int64)
    np.testing.assert_array_equal(build.constant_of(constant), [1, -1])
    assert [node.op_type for node in build.nodes] == ["Cast"]


def test_a_dtype_that_onnx_runtime_does_not_compute_in_is_refused():
    with pytest.raises(UnsupportedModel, match=r"torch\.complex64"):
        GraphBuilder().source("x", torch.complex64, [1])


def test_no_subexpression_is_computed_twice(lowered):
    def function(x):
        first = torch.sigmoid(x.transpose(0, 1)) + 1
        second = torch.sigmoid(x.permute(1, 0)) + 1.0
        return first * second

    made = [node.op_type for node in lowered(function, ("f[n,3]",)).graph.node]
    assert sorted(made) == ["Add", "Mul", "Sigmoid", "Transpose"]


def test_operators_without_a_lowering_are_named_and_counted(lowered):
    with pytest.raises(UnsupportedModel) as caught:
        lowered(lambda x: torch.atan(x) + torch.atan(x + 1) + torch.linalg.det(x.T @ x), ("f[n,3]",))
    message = str(caught.value)
    assert "no ONNX lowering here" in message
    assert "aten.atan.default (2 times)" in message
    assert "aten._linalg_det.default (1 times)" in message


@pytest.mark.parametrize(
    "noise",
    [
        lambda x: torch.nn.functional.dropout(x, 0.1, training=True),
        torch.rand_like,
        lambda x: torch.bernoulli(x.sigmoid()),
        lambda x: x + torch.randn(x.shape[0], 3),
        lambda x: torch.multinomial(x.sigmoid(), 1),
    ],
)
def test_random_operators_are_refused(lowered, noise):
    with pytest.raises(UnsupportedModel, match=r"aten\.\w+\.?\w*.* random; dropout and noise must be off"):
        lowered(noise, ("f[n,3]",))


def test_a_changed_buffer_is_refused(lowered):
    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls.add_(1)
            return x * self.calls

    with pytest.raises(UnsupportedModel, match=r"changes its buffer .*calls"):
        lowered(Counting(), ("f[n,3]",))


def test_a_branch_that_depends_on_data_is_refused(lowered):
    def function(x):
        return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,))

    with pytest.raises(UnsupportedModel, match="a sub-graph"):
        lowered(function, ("f[n,3]",))


def test_a_body_has_only_what_differs_from_round_to_round():
    around = GraphBuilder()
    weight = source(around, "w", (3, 2))
    body = GraphBuilder(around, "body.")
    row = source(body, "row", (2, 3))
    turned = body.transpose(weight, (1, 0))
    product = body.op("Add", [row, turned], torch.float32, (2, 3))
    shifted = body.op("Mul", [product, body.constant(2.0, torch.float32)], torch.float32, (2, 3))
    assert [node.op_type for node in around.nodes] == ["Transpose"]
    assert [node.name for node in body.nodes] == ["body.Add_0", "body.Mul_1"]
    # A movement is seen through from inside, and equal nodes are one across both.
    assert body.transpose(turned, (1, 0)) is weight
    assert around.transpose(weight, (1, 0)) is turned
    assert shifted.value.producer().inputs[1] in around.initializers
    assert body.initializers == []


def test_a_node_reads_what_its_body_reads_from_around_it():
    around = GraphBuilder()
    weight, x = source(around, "w"), source(around)
    more = around.op("Neg", [weight], torch.float32, (2, 3))
    body = GraphBuilder(around, "body.")
    row = source(body, "row", (3,))
    made = body.op("Add", [row, more], torch.float32, (2, 3))
    graph = ir.Graph([row.value], [made.value], nodes=body.nodes, name="body")
    loop = around.op("Scan", [x], torch.float32, (2, 2, 3), body=graph, num_scan_inputs=1)
    unused = around.op("Abs", [x], torch.float32, (2, 3))
    assert values_read(loop.value.producer()) == [x.value, more.value]
    assert needed_nodes(around.nodes, [loop.value]) == [more.value.producer(), loop.value.producer()]
    assert unused.value.producer() in around.nodes
