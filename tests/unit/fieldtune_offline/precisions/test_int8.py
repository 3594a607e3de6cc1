"""int8: rows with a scale each, products of integers, and no row that depends on its batch mates."""

import pytest
import torch

from fieldtune_offline.precisions.int8 import Int8, gathered_rows
from packed_graphs import Products, furthest, normal, opened, products_graph, run, traced_graph


def test_codes_and_scales_by_hand():
    codes, scales = Int8().pack(torch.tensor([[-254.0, 127.0, 3.0], [0.0, 0.0, 0.0], [0.5, -0.25, 0.0]]))
    assert (codes.dtype, scales.dtype) == (torch.int8, torch.float32)
    # A tie goes to the even code: 3 / 2 to 2, and -63.5 to -64.
    assert codes.tolist() == [[-127, 64, 2], [0, 0, 0], [127, -64, 0]]
    torch.testing.assert_close(scales, torch.tensor([2.0, 1e-30, 0.5 / 127]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(16, 64), (1, 5), (7, 2), (3, 100)], ids=str)
def test_no_value_moves_by_more_than_half_a_scale_of_its_row(shape):
    matrix = normal(*shape) * normal(shape[0], 1, seed=1).exp()
    found = Int8().unpack(Int8().pack(matrix), *shape)
    bound = matrix.abs().amax(1, keepdim=True) / 254
    assert bool(((found - matrix).abs() <= bound * 1.0001).all())
    assert bool((found - matrix).any())


def test_rows_of_zeros_unpack_to_zeros_beside_others():
    matrix = normal(3, 40)
    matrix[1] = 0
    found = Int8().unpack(Int8().pack(matrix), 3, 40)
    assert not found[1].any()
    torch.testing.assert_close(found, matrix, atol=0.02, rtol=0)
    assert Int8().refusal(3, 41) is None


def test_products_are_of_integers():
    """Of activations that int8 holds exactly, scaled, so that a row's sum can be added up by hand."""
    x = torch.tensor([[127.0, -64.0, 1.0], [0.5, 0.0, -0.25]])
    matrix = torch.tensor([[127.0, 0.0, 2.0], [-254.0, 254.0, 0.0]])
    parts = Int8().pack(matrix)
    product = Int8().product(x, parts, 2)
    scale = 0.5 / 127
    # 0.25 is 63.5 of its row's scale, and the tie goes to 64.
    expected = [[127 * 127 + 2, -127 * 254 - 64 * 254], [(127 * 127 - 2 * 64) * scale, -254 * 127 * scale]]
    torch.testing.assert_close(product, torch.tensor(expected))
    exact = x @ Int8().unpack(parts, 2, 3).T
    assert not torch.equal(product, exact)


def test_products_are_near_those_with_the_unpacked_matrix():
    module = Products("int8", normal(24, 144))
    x, gradient = normal(9, 144, seed=1), normal(9, 24, seed=2)
    matrix = Int8().unpack(module.parts, 24, 144)
    product, back = module(x, gradient)
    assert 1e-4 < furthest(product, x @ matrix.T) < 0.02
    assert 1e-4 < furthest(back, gradient @ matrix) < 0.02


@pytest.fixture(scope="module")
def session():
    return opened(products_graph(Products("int8", normal(24, 144))))


def test_no_row_depends_on_its_batch_mates(session):
    x, gradient = normal(9, 144, seed=1), normal(9, 24, seed=2)
    x[0], gradient[0] = x[0] * 1e4, gradient[0] * 1e4  # a scale for all would leave nothing of the others
    together = run(session, x, gradient)
    for row in range(9):
        for found, alone in zip(together, run(session, x[row : row + 1], gradient[row : row + 1]), strict=True):
            assert torch.equal(found[row], alone[0])
        for found, turned in zip(together, run(session, x.roll(row, 0), gradient.roll(row, 0)), strict=True):
            assert torch.equal(found[0], turned[row])


def test_the_largest_codes_do_not_overflow():
    """Where sums of pairs of products are kept in 16 bits, they would: 2 · 255 · 127 is more than 32767."""
    matrix = torch.ones(24, 144)
    x, gradient = torch.ones(3, 144), torch.ones(3, 24)
    x[1], gradient[1] = -1, -1
    product, back = run(opened(products_graph(Products("int8", matrix))), x, gradient)
    signs = torch.tensor([[1.0], [-1.0], [1.0]])
    torch.testing.assert_close(product, 144 * signs.expand(3, 24))
    torch.testing.assert_close(back, 24 * signs.expand(3, 144))


def test_unpacked_the_graph_multiplies_with_the_matrix_in_float32(session):
    module = Products("int8", normal(24, 144))
    graph = products_graph(module, unpacked=True)
    assert {"MatMulIntegerToFloat", "QuantizeLinear"}.isdisjoint(node.op_type for node in graph.model.graph)
    x, gradient = normal(4, 144, seed=1), normal(4, 24, seed=2)
    matrix = Int8().unpack(module.parts, 24, 144)
    product, back = run(opened(graph), x, gradient)
    assert furthest(product, x @ matrix.T) < 1e-5
    assert furthest(back, gradient @ matrix) < 1e-5
    assert furthest(run(session, x, gradient)[0], product) > 1e-4


def test_rows_are_gathered():
    class Gather(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name, part in zip(Int8.part_names, Int8().pack(normal(11, 6)), strict=True):
                self.register_buffer(name, part)

        def forward(self, ids):
            return (torch.ops.fieldtune.packed_rows(ids, self.codes, self.scales),)

    module, ids = Gather(), torch.tensor([[3, 10, 0], [3, 3, 5]])
    expected = Int8().unpack((module.codes, module.scales), 11, 6)[ids]
    assert torch.equal(gathered_rows(ids, module.codes, module.scales), expected)
    session = opened(traced_graph(module, ids, axes=(("n", "m"),)))
    assert torch.equal(run(session, ids)[0], expected)
    assert torch.equal(run(session, ids[:1, :1])[0], expected[:1, :1])
