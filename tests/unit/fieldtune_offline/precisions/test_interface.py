"""What holds of every precision: ONNX Runtime computes what it computes in torch, whatever is fed."""

import pytest
import torch

from fieldtune_offline.precisions.table import precision_of
from packed_graphs import EXACT, RECIPES, Products, furthest, normal, opened, products_graph, run

ROWS, COLUMNS = 24, 144  # no block but NF4's, which runs on from row to row, divides these columns
TOLERANCE = 1e-5


def products(recipe, rows=ROWS, columns=COLUMNS):
    return Products(recipe, normal(rows, columns, scale=0.05))


@pytest.fixture(scope="module")
def sessions():
    """The function from a recipe and the axes of the input to module and session, made once each."""
    made = {}

    def of(recipe, axes=("n",)):
        if (recipe, axes) not in made:
            module = products(recipe)
            made[recipe, axes] = module, opened(products_graph(module, axes))
        return made[recipe, axes]

    return of


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("shape", [(1,), (7,), (1, 1), (1, 6), (3, 5)], ids=str)
def test_product_and_input_gradient_are_torchs(sessions, recipe, shape):
    module, session = sessions(recipe, ("n", "m")[: len(shape)])
    x, gradient = normal(*shape, COLUMNS, seed=1), normal(*shape, ROWS, seed=2)
    for found, expected in zip(run(session, x, gradient), module(x, gradient), strict=True):
        assert furthest(found, expected) < TOLERANCE


@pytest.mark.parametrize("recipe", EXACT)
def test_products_are_with_the_unpacked_matrix(recipe):
    module, precision = products(recipe), precision_of(recipe)
    matrix = precision.unpack(module.parts, ROWS, COLUMNS)
    x, gradient = normal(2, 3, COLUMNS, seed=1), normal(2, 3, ROWS, seed=2)
    product, back = module(x, gradient)
    torch.testing.assert_close(product, x @ matrix.T)
    torch.testing.assert_close(back, gradient @ matrix)
    assert not precision.integer


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("columns", [144, 128, 208])
def test_what_is_cut_from_packed_rows_unpacks_to_those_rows(recipe, columns):
    module, precision = products(recipe, rows=150, columns=columns), precision_of(recipe)
    matrix = precision.unpack(module.parts, 150, columns)
    for rows in (slice(0, 64), slice(64, 128), slice(128, 150), slice(0, 150)):
        cut = precision.cut(module.parts, rows, columns)
        assert torch.equal(precision.unpack(cut, rows.stop - rows.start, columns), matrix[rows])


@pytest.mark.parametrize("recipe", EXACT)
def test_a_large_matrix_is_unpacked_a_part_at_a_time(monkeypatch, recipe):
    module, precision = products(recipe, rows=150), precision_of(recipe)
    x, gradient = normal(2, 3, COLUMNS, seed=1), normal(2, 3, 150, seed=2)
    at_once = module(x, gradient)
    unpacked = []
    unpack = type(precision).unpack
    monkeypatch.setattr(
        type(precision),
        "unpack",
        lambda self, parts, rows, columns: unpacked.append(rows) or unpack(self, parts, rows, columns),
    )
    monkeypatch.setattr("fieldtune_offline.precisions.interface._AT_ONCE", 64 * COLUMNS)
    for found, expected in zip(module(x, gradient), at_once, strict=True):
        torch.testing.assert_close(found, expected)
    assert unpacked == [64, 64, 22] * 2


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_matrix_of_one_row(recipe):
    module = products(recipe, rows=1)
    session = opened(products_graph(module))
    x, gradient = normal(4, COLUMNS, seed=1), normal(4, 1, seed=2)
    for found, expected in zip(run(session, x, gradient), module(x, gradient), strict=True):
        assert furthest(found, expected) < TOLERANCE


@pytest.mark.parametrize("recipe", RECIPES)
def test_rows_of_zeros_stay_zeros(sessions, recipe):
    _, session = sessions(recipe)
    x, gradient = normal(3, COLUMNS, seed=1), normal(3, ROWS, seed=2)
    x[1], gradient[1] = 0, 0
    for found in run(session, x, gradient):
        assert bool(found.isfinite().all())
        assert not found[1].any()
        assert bool(found[[0, 2]].abs().gt(0).any(1).all())


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_restores_the_same_precision(recipe):
    precision = precision_of(recipe)
    assert precision.recipe == recipe
    assert recipe.startswith(precision.name)
    assert precision_of(recipe) is precision
    assert len(precision.part_names) == len(precision.pack(normal(4, 128)))
