"""Cross-entropy in chunks: what torch's own gives of all logits at once, in torch and in ONNX Runtime."""

import math

import onnx_ir as ir
import pytest
import torch
from torch import nn

from fieldtune.bundle import IGNORE_INDEX
from fieldtune_offline.losses.cross_entropy import chunked_cross_entropy
from fieldtune_offline.passes.inline_scans import inline_scans
from fieldtune_offline.precisions.table import precision_of
from packed_graphs import furthest, normal, opened, run, traced_graph

TOKENS, WIDTH = 40, 16
RECIPES = pytest.mark.parametrize("recipe", ["stored", "int8", "nf4/64/double"])
# Fewer rows than a chunk, as many, one more, and several chunks of which one is filled up.
SIZES = pytest.mark.parametrize("count", [1, 4, 5, 11])


class Head(nn.Module):
    """Loss, correct ones and, where asked for, the gradient: of hidden states and targets, four rows at a time."""

    def __init__(self, recipe="stored", *, bias=True, results=(0, 1, 2)):
        super().__init__()
        self.recipe, self.results = recipe, results
        self.names = precision_of(recipe).part_names
        for name, part in zip(self.names, precision_of(recipe).pack(normal(TOKENS, WIDTH)), strict=True):
            self.register_buffer(name, part)
        self.register_buffer("bias", normal(TOKENS, seed=5) if bias else None)

    @property
    def parts(self):
        return [getattr(self, name) for name in self.names]

    def forward(self, hidden, targets):
        found = chunked_cross_entropy(hidden, targets, self.parts, self.bias, self.recipe, TOKENS, 4)
        return tuple(found[index] for index in self.results)


def given(count, seed=1):
    targets = torch.randint(0, TOKENS, (count,), generator=torch.Generator().manual_seed(seed))
    targets[count // 2] = IGNORE_INDEX
    return normal(count, WIDTH, seed=seed), targets


def expected(head, hidden, targets):
    """Return torch's own loss of all logits, and its gradient."""
    matrix = precision_of(head.recipe).unpack(head.parts, TOKENS, WIDTH)
    hidden = hidden.clone().requires_grad_()
    logits = hidden @ matrix.T + (0 if head.bias is None else head.bias)
    loss = nn.functional.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum")
    loss.backward()
    return loss.detach(), (logits.argmax(-1) == targets).sum().to(torch.float32), hidden.grad


def graph_of(head):
    return traced_graph(head, *given(3), axes=(("n",), ("n",)))


def test_it_is_as_torch_wants_operators_to_be():
    hidden, targets = given(6)
    head = Head()
    torch.library.opcheck(
        chunked_cross_entropy, (hidden.requires_grad_(), targets, head.parts, head.bias, "stored", TOKENS, 4)
    )


@SIZES
def test_torch_computes_what_it_computes_of_all_logits(count):
    head, (hidden, targets) = Head(), given(count)
    loss, correct, gradient = expected(head, hidden, targets)
    x = hidden.clone().requires_grad_()
    found, right, made = head(x, targets)
    (found * 3).backward()
    assert math.isclose(found.detach(), loss, rel_tol=1e-6, abs_tol=1e-6)
    assert right == correct
    assert torch.allclose(made, gradient, atol=1e-6)
    assert torch.allclose(x.grad, 3 * gradient, atol=1e-5)


@RECIPES
@SIZES
def test_the_graph_computes_what_torch_computes(recipe, count):
    head, (hidden, targets) = Head(recipe), given(count)
    loss, correct, gradient = run(opened(graph_of(head)), hidden, targets)
    wanted = head(hidden, targets)
    assert math.isclose(loss, wanted[0], rel_tol=1e-5, abs_tol=1e-6)
    assert correct == wanted[1]
    # An integer that lies between two may go either way.
    assert torch.allclose(gradient, wanted[2], atol=2e-2 if recipe == "int8" else 1e-5)


def test_likeliest_targets_are_counted_and_rows_that_do_not_count_are_not():
    head = Head(bias=False)
    hidden = normal(9, WIDTH, seed=3)
    targets = (hidden @ head.stored.T).argmax(-1)
    targets[[2, 5]] = IGNORE_INDEX
    assert run(opened(graph_of(head)), hidden, targets)[1] == 7


def test_where_no_row_counts_there_is_neither_loss_nor_gradient():
    hidden, targets = normal(5, WIDTH), torch.full((5,), IGNORE_INDEX)
    for loss, correct, gradient in (run(opened(graph_of(Head())), hidden, targets), Head()(hidden, targets)):
        assert loss == correct == 0
        assert not gradient.any()


@pytest.mark.parametrize(
    ("results", "operators"),
    [((0,), {"LogSoftmax"}), ((0, 1), {"LogSoftmax", "ArgMax"}), ((0, 2), {"LogSoftmax", "ScatterElements"})],
)
def test_what_is_not_asked_for_is_not_computed(results, operators):
    graph = graph_of(Head(results=results)).model.graph
    (scan,) = [node for node in graph if node.op_type == "Scan"]
    inside = {node.op_type for node in scan.attributes["body"].as_graph()}
    assert inside & {"LogSoftmax", "ArgMax", "ScatterElements"} == operators


def test_no_tensor_has_a_row_of_logits_for_each_position():
    graph = graph_of(Head("int8")).model.graph
    # Outside of the body only weights know how many tokens there are.
    computed = [value for node in graph for value in node.outputs if TOKENS in value.shape.dims]
    assert sorted(value.producer().op_type for value in computed) == ["Reshape", "Reshape", "Transpose"]
    (scan,) = [node for node in graph if node.op_type == "Scan"]
    (turned,) = [value for value in computed if value.producer().op_type == "Transpose"]
    assert turned in {value for node in scan.attributes["body"].as_graph() for value in node.inputs}


def test_all_chunks_have_equally_many_rows_and_less_than_one_each_is_filled_up():
    session = graph_of(Head())
    (scan,) = [node for node in session.model.graph if node.op_type == "Scan"]
    session.model.graph.outputs.extend(scan.inputs)
    opened_session = opened(session)
    for count, shape in ((4, (1, 4)), (5, (2, 3)), (11, (3, 4)), (12, (3, 4)), (13, (4, 4)), (17, (5, 4))):
        *_, hidden, targets = run(opened_session, *given(count))
        assert tuple(hidden.shape) == (*shape, WIDTH)
        assert (targets == IGNORE_INDEX).sum() == 1 + shape[0] * shape[1] - count


@SIZES
def test_the_body_in_the_loops_place_computes_the_same(count):
    head, feeds = Head(), given(count)
    wanted = run(opened(graph_of(head)), *feeds)
    graph = graph_of(head)
    assert inline_scans(graph.model.graph)
    assert "Scan" not in {node.op_type for node in graph.model.graph}
    for value in (out for node in graph.model.graph for out in node.outputs):
        value.shape = None if not value.is_graph_output() else value.shape
    for found, expected in zip(run(opened(graph), *feeds), wanted, strict=True):
        assert furthest(found[None], expected[None]) < 1e-5 or torch.equal(found, expected)


def test_a_graph_without_loops_is_left_as_it_is():
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2]))
    node = ir.node("Relu", [x])
    assert not inline_scans(ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 18}))
