"""int4: blocks of columns with a scale and a zero point each, whose codes lie as ONNX Runtime has them, too."""

import onnx
import onnxruntime
import pytest
import torch

from fieldtune_offline.precisions.int4 import BLOCKS, Int4
from packed_graphs import Products, normal, opened, products_graph, run

KINDS = pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
EVERY_BLOCK = pytest.mark.parametrize("block", BLOCKS)


def by_block(matrix, block):
    """Fill the last block of each row up with zeros; return one block a row."""
    return torch.nn.functional.pad(matrix, (0, -matrix.shape[1] % block)).reshape(-1, block)


def restored(precision, matrix):
    return precision.unpack(precision.pack(matrix), *matrix.shape)


def test_codes_scales_and_zero_points_by_hand():
    row = torch.zeros(1, 32)
    row[0, :4] = torch.tensor([-4.0, 11.0, 2.0, -1.0])
    codes, scales, zeros = Int4(32).pack(row)
    assert (codes.dtype, scales.dtype, zeros.dtype) == (torch.uint8, torch.float32, torch.uint8)
    assert codes.shape == (1, 1, 16)
    # Fifteen steps of 1 from -4, so that zero is the code 4; the earlier column is in the low nibble.
    assert (scales.tolist(), zeros.tolist()) == ([1.0], [4])
    assert codes.flatten().tolist() == [0xF0, 0x36, *[0x44] * 14]


def test_symmetric_codes_by_hand():
    row = torch.zeros(1, 32)
    row[0, :4] = torch.tensor([-7.0, 7.0, 2.0, -1.0])
    codes, scales = Int4(32, symmetric=True).pack(row)
    assert scales.tolist() == [1.0]
    assert codes.flatten().tolist() == [0xF1, 0x7A, *[0x88] * 14]


@KINDS
@EVERY_BLOCK
@pytest.mark.parametrize("columns", [1, 31, 128, 200])
def test_no_value_moves_by_more_than_half_a_step_and_what_its_blocks_range_was_narrowed_by(block, symmetric, columns):
    matrix = normal(6, columns, scale=0.05)
    precision = Int4(block, symmetric=symmetric)
    groups = by_block(matrix, block)
    moved = by_block(restored(precision, matrix) - matrix, block).abs().amax(1)
    low, high = groups.amin(1).clamp(max=0), groups.amax(1).clamp(min=0)
    largest = groups.abs().amax(1)
    # A step of the whole range, and at most a fifth of the largest value, which the narrowest range leaves out.
    step = largest / 7 if symmetric else (high - low) / 15
    assert bool((moved <= step / 2 + largest * 0.2 + 1e-6).all())
    # On the whole it is no more than the rounding of a full range.
    assert float((restored(precision, matrix) - matrix).square().mean()) <= float(step.square().mean()) / 8


@KINDS
@EVERY_BLOCK
def test_a_narrowed_range_errs_less_than_the_whole(block, symmetric):
    matrix = normal(32, 256, seed=4)
    precision = Int4(block, symmetric=symmetric)
    groups = by_block(matrix, block)
    whole = precision._error(groups, *precision._quantized(groups, 1.0))
    found = by_block(restored(precision, matrix) - matrix, block).square().sum(1)
    assert bool((found <= whole * 1.0001).all())
    assert float(found.sum()) < 0.97 * float(whole.sum())


@KINDS
def test_blocks_have_scales_of_their_own(symmetric):
    matrix = normal(2, 96)
    matrix[:, 32:64] *= 1e4
    matrix[0, 64:] = 0
    precision = Int4(32, symmetric=symmetric)
    found = restored(precision, matrix)
    torch.testing.assert_close(found[:, :32], restored(precision, matrix[:, :32]), rtol=0, atol=0)
    assert not found[0, 64:].any()
    assert found[1, 64:].any()


@KINDS
@pytest.mark.parametrize("columns", [1, 63, 65])
def test_a_last_block_that_is_not_full_is_packed_as_if_zeros_followed(symmetric, columns):
    precision, matrix = Int4(64, symmetric=symmetric), normal(3, columns)
    filled = torch.nn.functional.pad(matrix, (0, -columns % 64))
    for part, other in zip(precision.pack(matrix), precision.pack(filled), strict=True):
        assert torch.equal(part, other)


@KINDS
def test_zeros_stay_zeros_and_a_matrix_of_one_row_is_packed(symmetric):
    precision = Int4(64, symmetric=symmetric)
    assert not restored(precision, torch.zeros(3, 70)).any()
    assert bool(precision.pack(torch.zeros(3, 70))[1].eq(1).all())
    one = normal(1, 70).abs() + 1  # all of one sign: the range reaches to zero
    one[0, ::3] = 0
    found = restored(precision, one)
    assert not found[0, ::3].any()
    assert float((found - one).abs().max()) < float(one.max()) / 5


@pytest.mark.parametrize("block", [0, 16, 63, 256])
def test_another_block_is_refused_with_those_that_there_are(block):
    with pytest.raises(ValueError, match=f"^block is {block}; expected 32, 64, 128$"):
        Int4(block)


def matmul_nbits(precision, parts, rows, columns):
    """Open ONNX Runtime's own product with the codes as they lie, and the zero points two a byte, as it has them."""
    codes, scales, *zeros = parts
    given = {"codes": codes, "scales": scales}
    if zeros:
        nibbles = zeros[0].reshape(rows, -1)
        nibbles = torch.nn.functional.pad(nibbles, (0, nibbles.shape[1] % 2))
        given["zero_points"] = (nibbles[:, ::2] | (nibbles[:, 1::2] << 4)).flatten()
    node = onnx.helper.make_node(
        "MatMulNBits",
        ["x", *given],
        ["y"],
        domain="com.microsoft",
        K=columns,
        N=rows,
        bits=4,
        block_size=precision.block,
    )
    kind = onnx.TensorProto.FLOAT
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [node],
            "product",
            [onnx.helper.make_tensor_value_info("x", kind, ["n", columns])],
            [onnx.helper.make_tensor_value_info("y", kind, ["n", rows])],
            [onnx.numpy_helper.from_array(part.numpy(), name) for name, part in given.items()],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@KINDS
@EVERY_BLOCK
@pytest.mark.parametrize("columns", [128, 160, 320])
def test_codes_lie_as_matmulnbits_takes_them(block, symmetric, columns):
    precision, matrix, x = Int4(block, symmetric=symmetric), normal(10, columns), normal(3, columns, seed=1)
    matrix += normal(10, 1, seed=2)  # so that zero points differ
    parts = precision.pack(matrix)
    (found,) = matmul_nbits(precision, parts, 10, columns).run(None, {"x": x.numpy()})
    expected = x @ precision.unpack(parts, 10, columns).T
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-4)


def test_a_gradient_has_its_columns_in_their_order_where_the_last_block_is_filled_up():
    module = Products("int4/64/asymmetric", normal(5, 70))
    _, back = run(opened(products_graph(module)), normal(1, 70), torch.eye(5))
    torch.testing.assert_close(back, Int4(64).unpack(module.parts, 5, 70), rtol=0, atol=1e-6)
