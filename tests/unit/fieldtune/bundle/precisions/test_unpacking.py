"""Packed matrices on the device: rows unpacked as the formulas say, and parts that are no parts refused."""

import numpy as np
import pytest

from fieldtune.bundle.precisions.nf4 import CODEBOOK, dynamic_map
from fieldtune.bundle.precisions.table import packed_precision
from fieldtune.errors import UnsupportedFormat

INT8 = {"codes": np.array([[-127, 5], [1, 2], [3, 0]], np.int8), "scales": np.float32([0.5, 2, 1])}
# Three columns, of blocks of 2: the last block of a row has one value that is filled up.
INT4 = {
    "codes": np.array([[[0x21], [0x43]], [[0x65], [0x87]]], np.uint8),
    "scales": np.float32([1, 2, 0.5, 4]),
    "zero_points": np.array([1, 0, 6, 8], np.uint8),
}
NF4 = {"codes": np.full(64, 0xF7, np.uint8), "scales": np.float32([2, 0.5])}
DOUBLE = {
    "codes": np.full(64, 0xF7, np.uint8),
    "scales": np.array([255, 0], np.uint8),
    "nested": np.float32([3]),
    "offset": np.float32([-0.25]),
}


def unpacked(recipe, parts, rows, columns):
    precision = packed_precision(recipe)
    assert precision.faults(parts, rows, columns) == []
    return precision.unpack(parts, columns, 0, rows)


def test_int8_is_a_code_times_the_scale_of_its_row():
    assert unpacked("int8", INT8, 3, 2).tolist() == [[-63.5, 2.5], [2, 4], [3, 0]]


def test_int4_is_a_code_less_the_zero_point_of_its_block_times_the_scale():
    assert unpacked("int4/2/asymmetric", INT4, 2, 3).tolist() == [[0, 1, 6], [-0.5, 0, -4]]
    symmetric = {name: INT4[name] for name in ("codes", "scales")}
    assert unpacked("int4/2/symmetric", symmetric, 2, 3).tolist() == [[-7, -6, -10], [-1.5, -1, -4]]


def test_nf4_is_a_quantile_times_the_scale_of_its_block():
    """The earlier value of a pair is in the high half; blocks of 64 go over rows of 32."""
    matrix = unpacked("nf4/64/single", NF4, 4, 32)
    assert matrix[:2].tolist() == [[2.0, 0.0] * 16] * 2
    assert matrix[2:].tolist() == [[0.5, 0.0] * 16] * 2
    matrix = unpacked("nf4/64/double", DOUBLE, 4, 32)
    scales = np.float32([dynamic_map()[255] * 3 - 0.25, dynamic_map()[0] * 3 - 0.25])
    assert matrix[:, 0].tolist() == np.repeat(scales, 2).tolist()
    assert scales[0] == 2.75


def test_the_codes_of_nf4_and_of_its_scales_rise():
    for table, size in ((CODEBOOK, 16), (dynamic_map(), 256)):
        assert table.shape == (size,)
        assert table.dtype == np.float32
        assert (np.diff(table) > 0).all()
        assert 0 in table
        assert table[-1] == 1


@pytest.mark.parametrize("most", [1, 70, 10**6])
@pytest.mark.parametrize(("recipe", "parts", "shape"), [("int8", INT8, (3, 2)), ("int4/2/asymmetric", INT4, (2, 3)),
                                                        ("nf4/64/double", DOUBLE, (4, 32)),
                                                        ("nf4/64/single", NF4, (128, 1))])  # fmt: skip
def test_blocks_of_rows_are_the_matrix(recipe, parts, shape, most):
    whole = unpacked(recipe, parts, *shape)
    blocks = list(packed_precision(recipe).blocks(parts, *shape, most))
    assert [start for start, _ in blocks] == list(range(0, shape[0], max(1, most // shape[1])))
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in blocks]), whole)


def changed(parts, name, index, value):
    found = parts[name].copy()
    found[index] = value
    return {**parts, name: found}


@pytest.mark.parametrize(
    ("recipe", "parts", "shape", "fault"),
    [
        ("int8", {**INT8, "scales": np.float32([1, 1])}, (3, 2),
         "scales is float32 of shape (2,); expected float32 of shape (3,)"),
        ("int8", {**INT8, "codes": INT8["codes"].view(np.uint8)}, (3, 2),
         "codes is uint8 of shape (3, 2); expected int8 of shape (3, 2)"),
        ("int8", changed(INT8, "scales", 1, 0), (3, 2),
         "scales has 1 value(s) such as 0; expected finite and positive ones"),
        ("int8", changed(INT8, "scales", slice(2), np.nan), (3, 2),
         "scales has 2 value(s) such as nan; expected finite and positive ones"),
        ("int4/2/asymmetric", changed(INT4, "scales", 3, np.inf), (2, 3),
         "scales has 1 value(s) such as inf; expected finite and positive ones"),
        ("int4/2/asymmetric", changed(INT4, "scales", 3, -1), (2, 3),
         "scales has 1 value(s) such as -1; expected finite and positive ones"),
        ("int4/2/asymmetric", {**INT4, "zero_points": INT4["zero_points"][:3]}, (2, 3),
         "zero_points is uint8 of shape (3,); expected uint8 of shape (4,)"),
        ("int4/2/asymmetric", INT4, (2, 5), "codes is uint8 of shape (2, 2, 1); expected uint8 of shape (2, 3, 1)"),
        ("nf4/64/single", changed(NF4, "scales", 0, -1), (4, 32),
         "scales has 1 value(s) such as -1; expected finite and not negative ones"),
        ("nf4/64/double", changed(DOUBLE, "nested", 0, np.nan), (4, 32),
         "nested has 1 value(s) such as nan; expected finite and not negative ones"),
        ("nf4/64/double", changed(DOUBLE, "offset", 0, -np.inf), (4, 32),
         "offset has 1 value(s) such as -inf; expected finite numbers"),
    ],
)  # fmt: skip
def test_parts_that_are_none_of_the_matrix_are_named(recipe, parts, shape, fault):
    assert fault in packed_precision(recipe).faults(parts, *shape)


def test_a_block_of_zeros_of_nf4_has_the_scale_0():
    assert unpacked("nf4/64/single", changed(NF4, "scales", 0, 0), 4, 32)[0].tolist() == [0.0] * 32


@pytest.mark.parametrize(
    "recipe", ["", "fp8", "int8/32", "int4", "int4/64", "int4/3/symmetric", "int4/x/symmetric", "int4/64/both",
               "nf4/32/double", "nf4/64/triple"]
)  # fmt: skip
def test_a_recipe_that_is_not_known_is_refused(recipe):
    with pytest.raises(UnsupportedFormat, match=f"packed as '{recipe}'"):
        packed_precision(recipe)
