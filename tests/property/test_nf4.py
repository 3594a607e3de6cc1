"""What holds of every matrix in NF4: bitsandbytes packs it the same; and of every byte of a checkpoint's settings."""

import importlib.util

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

if importlib.util.find_spec("torch") is None:
    pytest.skip("no development environment, which has both halves", allow_module_level=True)

import torch

from fieldtune.errors import UnsupportedModel
from fieldtune_offline.precisions.nf4_codec import CODEBOOK, dequantize, quantize, read_bitsandbytes
from nf4_reference import bit_equal, checkpoint, needs_bitsandbytes, pack, unpack

# Values that are often equal, zero, or of another magnitude than their neighbours; sums of scales stay finite.
VALUES = st.floats(-(2.0**100), 2.0**100, width=32)
MATRICES = arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 100)), elements=VALUES).map(
    torch.from_numpy
)


@needs_bitsandbytes
@bit_equal
@settings(deadline=None)  # the first use imports bitsandbytes
@given(MATRICES, st.booleans())
def test_bitsandbytes_packs_the_same(matrix: torch.Tensor, double: bool) -> None:
    parts = quantize(matrix, double=double)
    assert all(torch.equal(*pair) for pair in zip(parts, pack(matrix, double=double), strict=True))
    if matrix.numel() % 2 == 0:
        assert torch.equal(dequantize(parts, *matrix.shape), unpack(matrix, double=double))


@settings(deadline=None)
@given(MATRICES)
@example(torch.full((1, 64), 4.9e-42))
def test_values_stay_within_half_of_the_widest_gap_and_a_second_packing_changes_no_scale(matrix: torch.Tensor) -> None:
    parts = quantize(matrix, double=False)
    found = dequantize(parts, *matrix.shape)
    scales = parts[1].repeat_interleave(64)[: matrix.numel()].reshape(matrix.shape)
    assert bool(((found - matrix).abs() <= scales * CODEBOOK.diff().max() * 0.500001 + 1e-38).all())
    # A block that is smaller is divided by this and becomes zeros, as bitsandbytes has it.
    kept = parts[1] >= 1e-38
    assert torch.equal(quantize(found, double=False)[1][kept], parts[1][kept])


@needs_bitsandbytes
@settings(deadline=None)
@given(st.data())
def test_damaged_settings_are_read_or_refused_and_never_anything_else(data: st.DataObject) -> None:
    tensors = checkpoint("weight", torch.ones(2, 64), compress_statistics=True)
    key = "weight.quant_state.bitsandbytes__nf4"
    for _ in range(data.draw(st.integers(1, 3))):
        tensors[key][data.draw(st.integers(0, len(tensors[key]) - 1))] = data.draw(st.integers(0, 255))
    try:
        parts, shape = read_bitsandbytes(tensors, "weight")
    except UnsupportedModel:
        return
    dequantize(parts, *shape)


def test_an_odd_number_of_values_ends_in_the_code_of_zero() -> None:
    codes, scales = quantize(torch.tensor([[1.0, -1.0, 1.0]]), double=False)
    assert (codes.tolist(), scales.tolist()) == ([0xF0, 0xF7], [1.0])
    assert dequantize((codes, scales), 1, 3).tolist() == [[1.0, -1.0, 1.0]]
    with pytest.raises(ValueError, match="expected"):
        dequantize((codes, scales), 1, 5)
