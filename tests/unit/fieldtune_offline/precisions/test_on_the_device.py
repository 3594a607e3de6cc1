"""Matrices that the dev box packs, unpacked by the device: the same bits."""

import numpy as np
import pytest
import torch

from fieldtune.bundle.precisions.nf4 import CODEBOOK, dynamic_map
from fieldtune.bundle.precisions.table import packed_precision
from fieldtune_offline.precisions import nf4_codec
from fieldtune_offline.precisions.table import precision_of
from packed_graphs import RECIPES, normal


def bits(values):
    return np.ascontiguousarray(values).view(np.uint32)


@pytest.mark.parametrize("recipe", RECIPES)
# 70 columns fill no block; 2304 values of 48 columns are several nested scales of no whole rows.
@pytest.mark.parametrize(("rows", "columns"), [(8, 48), (5, 80), (400, 48), (7, 256)])
def test_every_bit_is_the_dev_boxs(recipe, rows, columns):
    matrix = normal(rows, columns, scale=0.05)
    matrix[1] = 0
    matrix[2, :40] *= 1e-6
    precision, device = precision_of(recipe), packed_precision(recipe)
    parts = precision.pack(matrix)
    expected = precision.unpack(parts, rows, columns).numpy()
    stored = dict(zip(precision.part_names, (part.numpy() for part in parts), strict=True))
    assert list(device.parts(rows, columns)) == list(precision.part_names)
    assert device.faults(stored, rows, columns) == []
    for most in (1, 3 * columns, 10**6):
        found = np.concatenate([block for _, block in device.blocks(stored, rows, columns, most)])
        np.testing.assert_array_equal(bits(found), bits(expected))


def test_so_are_the_tables_of_nf4():
    assert torch.equal(torch.from_numpy(CODEBOOK), nf4_codec.CODEBOOK)
    np.testing.assert_array_equal(bits(dynamic_map()), bits(nf4_codec.DYNAMIC_MAP.numpy()))
