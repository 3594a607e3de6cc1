"""What holds of every matrix in int8 and int4: how far a value may move, and that zeros stay where they are."""

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

if importlib.util.find_spec("torch") is None:
    pytest.skip("no development environment, which has both halves", allow_module_level=True)

import torch

from fieldtune_offline.precisions.int4 import BLOCKS, Int4
from fieldtune_offline.precisions.int8 import Int8
from fieldtune_offline.precisions.table import precision_of

# Values that are often equal, zero, or of another magnitude than their neighbours; not so small that steps vanish.
VALUES = st.floats(-(2.0**60), 2.0**60, width=32).map(lambda value: value if abs(value) > 2.0**-60 else 0.0)
MATRICES = arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 150)), elements=VALUES).map(
    torch.from_numpy
)
INT4 = st.builds(lambda block, symmetric: Int4(block, symmetric=symmetric), st.sampled_from(BLOCKS), st.booleans())


@settings(deadline=None)
@given(MATRICES)
def test_int8_moves_no_value_by_more_than_half_a_step_of_its_row(matrix: torch.Tensor) -> None:
    codes, scales = Int8().pack(matrix)
    assert int(codes.min()) >= -127
    found = Int8().unpack((codes, scales), *matrix.shape)
    bound = matrix.abs().amax(1, keepdim=True) / 254
    assert bool(((found - matrix).abs() <= bound * 1.0001).all())
    assert not found[matrix == 0].any()
    assert torch.equal(Int8().pack(found)[0], codes)


@settings(deadline=None)
@given(MATRICES, INT4)
def test_int4_moves_no_value_by_more_than_half_a_step_and_what_its_range_was_narrowed_by(
    matrix: torch.Tensor, precision: Int4
) -> None:
    parts = precision.pack(matrix)
    found = precision.unpack(parts, *matrix.shape)
    groups, moved = (
        torch.nn.functional.pad(values, (0, -values.shape[1] % precision.block)).reshape(-1, precision.block)
        for values in (matrix, found - matrix)
    )
    low, high = groups.amin(1).clamp(max=0), groups.amax(1).clamp(min=0)
    largest = groups.abs().amax(1)
    step = largest / 7 if precision.symmetric else (high - low) / 15
    # With a zero point that is rounded, both ends of the range move by up to half a step more.
    bound = step * (0.5 if precision.symmetric else 1.0) + largest * 0.2
    assert bool((moved.abs().amax(1) <= bound * 1.0001).all())
    assert not found[matrix == 0].any()
    # The whole range is among those that are tried, so that none of the others errs more.
    whole = precision._error(groups, *precision._quantized(groups, 1.0))
    assert bool((moved.square().sum(1) <= whole * 1.001).all())


@settings(deadline=None)
@given(MATRICES, INT4)
def test_a_recipe_unpacks_what_its_precision_packed(matrix: torch.Tensor, precision: Int4) -> None:
    parts = precision.pack(matrix)
    again = precision_of(precision.recipe)
    assert again.part_names == precision.part_names
    assert torch.equal(again.unpack(parts, *matrix.shape), precision.unpack(parts, *matrix.shape))
