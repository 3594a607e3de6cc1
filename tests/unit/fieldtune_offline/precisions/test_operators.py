"""The operators that packed layers are made of: as torch wants operators to be, differentiated, and lowered."""

import pytest
import torch
from torch import nn

from fieldtune_offline.lowering import PACKED
from fieldtune_offline.precisions.operators import (
    PRODUCT,
    Product,
    exact_product,
    packed_input_gradient,
    packed_product,
    packed_rows,
    unpacked_products,
)
from fieldtune_offline.precisions.table import precision_of
from packed_graphs import (
    EXACT,
    RECIPES,
    Products,
    Served,
    furthest,
    normal,
    opened,
    products_graph,
    run,
    served_graph,
    traced_graph,
)

EVERY = pytest.mark.parametrize("recipe", RECIPES)


@EVERY
def test_they_are_as_torch_wants_operators_to_be(recipe):
    module = Products(recipe, normal(8, 48))
    x, gradient = normal(2, 3, 48, seed=1), normal(2, 3, 8, seed=2)
    torch.library.opcheck(packed_product, (x.requires_grad_(), module.parts, recipe, 8))
    torch.library.opcheck(packed_input_gradient, (gradient, module.parts, recipe, 48))


def test_so_is_the_gathering_of_rows():
    parts = precision_of("int8").pack(normal(9, 5))
    torch.library.opcheck(packed_rows, (torch.tensor([[0, 8, 3]]), *parts))


class Net(nn.Module):
    """Two layers of one kind, a non-linear function between them."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def packed_layer(recipe, matrix):
    module = Products(recipe, matrix)
    return lambda x: packed_product(x, module.parts, recipe, module.rows)


def plain_layer(recipe, matrix):
    precision = precision_of(recipe)
    unpacked = precision.unpack(precision.pack(matrix), *matrix.shape)
    return lambda x: x @ unpacked.T


def answers(layer, recipe, x):
    """Return output and input gradient of a network of such layers."""
    x = x.clone().requires_grad_()
    result = Net(layer(recipe, normal(32, 48, scale=0.2)), layer(recipe, normal(16, 32, seed=1, scale=0.2)))(x)
    result.square().sum().backward()
    return result.detach(), x.grad


@pytest.mark.parametrize("recipe", EXACT)
@pytest.mark.parametrize("shape", [(5,), (2, 3)], ids=str)
def test_the_gradient_is_that_of_the_unpacked_matrix(recipe, shape):
    x = normal(*shape, 48, seed=2)
    for found, expected in zip(answers(packed_layer, recipe, x), answers(plain_layer, recipe, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert expected.any()


def test_integers_give_way_to_the_unpacked_matrix_where_that_is_asked_for():
    x = normal(5, 48, seed=2)
    exact = answers(plain_layer, "int8", x)
    with unpacked_products():
        with unpacked_products():
            inner = answers(packed_layer, "int8", x)
        outer = answers(packed_layer, "int8", x)  # still asked for
    integers = answers(packed_layer, "int8", x)
    for found, again, rounded, expected in zip(inner, outer, integers, exact, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(found, again)
        assert 1e-4 < furthest(rounded, expected) < 0.05


def test_integers_come_back_after_an_error():
    def fail():
        with unpacked_products():
            raise RuntimeError

    x, module = normal(2, 48), Products("int8", normal(8, 48))
    before = packed_product(x, module.parts, "int8", 8)
    with pytest.raises(RuntimeError):
        fail()
    assert torch.equal(packed_product(x, module.parts, "int8", 8), before)


@EVERY
def test_the_gradient_has_the_parts_by_second_names(recipe):
    graph = products_graph(Products(recipe, normal(8, 48)))
    names = precision_of(recipe).part_names
    held = {value.name: value for value in graph.unbound}
    assert set(held) == {*names, *(f"{name}@backward" for name in names)}
    assert all(value.meta[PACKED] for value in held.values())
    assert set(graph.weights) == set(names)


def test_products_of_integers_are_recorded_with_what_they_are_made_of():
    graph = products_graph(Products("int8", normal(8, 48)))
    made = [value for node in graph.model.graph for value in node.outputs if PRODUCT in value.meta]
    assert [value.meta[PRODUCT] for value in made] == [
        Product("int8", "x0", ("codes", "scales"), 8, 48, backward=False),
        Product("int8", "x1", ("codes@backward", "scales@backward"), 8, 48, backward=True),
    ]
    unpacked = products_graph(Products("int8", normal(8, 48)), unpacked=True)
    other = products_graph(Products("int4/64/asymmetric", normal(8, 48)))
    for graph in (unpacked, other):
        assert not any(PRODUCT in value.meta for node in graph.model.graph for value in node.outputs)


class Exact(nn.Module):
    """Products with the unpacked matrix, and with its transpose."""

    def __init__(self, recipe, matrix):
        super().__init__()
        self.held = Products(recipe, matrix)

    def forward(self, x, y):
        given = list(self.held.parts), self.held.recipe, self.held.rows, self.held.columns
        return exact_product(x, *given, True), exact_product(y, *given, False)


@EVERY
def test_exact_products_are_with_the_unpacked_matrix_in_torch_and_in_a_graph(recipe):
    matrix, x, y = normal(8, 48), normal(3, 48, seed=1), normal(3, 8, seed=2)
    module, precision = Exact(recipe, matrix), precision_of(recipe)
    unpacked = precision.unpack(precision.pack(matrix), 8, 48)
    expected = x @ unpacked.T, y @ unpacked
    graph = traced_graph(module, x, y, axes=(("n",), ("n",)))
    assert not any(PRODUCT in value.meta for node in graph.model.graph for value in node.outputs)
    for found in (module(x, y), run(opened(graph), x, y)):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    torch.library.opcheck(exact_product, (x, module.held.parts, recipe, 8, 48, True))


@EVERY
@pytest.mark.parametrize("columns", [32, 48, 64, 112, 128, 208, 320])
@pytest.mark.parametrize("count", [1, 7])
def test_what_serves_has_constants_and_computes_the_same(recipe, columns, count):
    matrix = normal(24, columns) + normal(24, 1, seed=3)  # so that zero points differ
    module = Served(recipe, matrix)
    graph = served_graph(module)
    assert not any(value.meta.get(PACKED) for value in graph.model.graph.initializers.values())
    x = normal(count, columns, seed=1)
    (found,) = run(opened(graph), x)
    assert furthest(found, packed_product(x, module.parts, recipe, 24)) < 1e-5
