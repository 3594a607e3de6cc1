"""nf4: ONNX Runtime's own product, forward with the codes, backward with an identity that lays them out."""

import pytest
import torch

from fieldtune_offline.precisions.nf4 import Nf4
from fieldtune_offline.precisions.nf4_codec import dequantize
from packed_graphs import Products, furthest, normal, opened, products_graph, run

RECIPES = pytest.mark.parametrize("recipe", ["nf4/64/double", "nf4/64/single"])
DOUBLE = pytest.mark.parametrize("double", [False, True], ids=["single", "double"])


@DOUBLE
@pytest.mark.parametrize("shape", [(16, 64), (1, 16), (3, 48), (600, 64)], ids=str)
def test_no_value_moves_by_more_than_a_sixth_of_its_blocks_largest(double, shape):
    matrix = normal(*shape, scale=0.05)
    parts = Nf4(double=double).pack(matrix)
    assert len(parts) == len(Nf4(double=double).part_names)
    found = Nf4(double=double).unpack(parts, *shape)
    assert torch.equal(found, dequantize(parts, *shape))
    filled = torch.nn.functional.pad((found - matrix).flatten(), (0, -matrix.numel() % 64)).reshape(-1, 64)
    largest = torch.nn.functional.pad(matrix.flatten(), (0, -matrix.numel() % 64)).reshape(-1, 64).abs().amax(1)
    assert bool((filled.abs().amax(1) <= largest / 6).all())


@pytest.mark.parametrize("columns", [1, 8, 15, 17, 100])
def test_columns_that_the_identity_does_not_divide_are_refused(columns):
    assert Nf4().refusal(3, columns) == f"{columns} columns are no multiple of 16"
    assert Nf4().refusal(3, columns * 16) is None


@RECIPES
@pytest.mark.parametrize("shape", [(5, 16), (1, 48), (64, 64), (37, 1776)], ids=str)
def test_the_identity_lays_out_every_value(recipe, shape):
    """Also where blocks run on from row to row, the last one is not full, or scales have nested scales, the last of
    which is not of as many."""
    module = Products(recipe, normal(*shape, scale=0.05))
    _, back = run(opened(products_graph(module)), normal(1, shape[1]), torch.eye(shape[0]))
    expected = dequantize(module.parts, *shape)
    assert furthest(back, expected) < 1e-6
    assert torch.equal(back == 0, expected == 0)


@RECIPES
def test_the_forward_product_unpacks_nothing(recipe):
    graph = products_graph(Products(recipe, normal(24, 144)))
    products = [node for node in graph.model.graph if node.op_type == "MatMulBnb4"]
    assert sorted(node.attributes["N"].as_int() for node in products) == [24, 24 * 144 // 16]
    assert "Gemm" in [node.op_type for node in graph.model.graph]


@RECIPES
def test_zeros_stay_zeros(recipe):
    matrix = normal(4, 64)
    matrix[2] = 0
    module = Products(recipe, matrix)
    product, back = run(opened(products_graph(module)), normal(3, 64, seed=1), torch.eye(4)[[2, 1]])
    expected = dequantize(module.parts, 4, 64)
    assert torch.equal(back[0], expected[2])
    if recipe.endswith("single"):  # doubly quantized, a scale is not zero, but the code of zero is
        assert not back[0].any()
    assert not product[:, 2].any()
    assert product[:, 1].any()
