"""theta: tensors one behind another, packed and seen, and which of them decay."""

import numpy as np
import pytest

from builders import layout, parameter
from fieldtune.bundle.layout import Layout

LAYOUT = layout(
    parameter("q.lora_A.weight", {"rank": 2, "in_features": 3}),
    parameter("q.lora_B.weight", {"out_features": 4, "rank": 2}),
    parameter("head.bias", {"features": 2}, decay=False),
)


def tensors(dtype=np.float32):
    values = np.arange(16, dtype=dtype)
    return {
        "q.lora_A.weight": values[:6].reshape(2, 3),
        "q.lora_B.weight": values[6:14].reshape(4, 2),
        "head.bias": values[14:],
    }


def test_sizes_and_ranks():
    assert LAYOUT.size == 16
    assert [one.size for one in LAYOUT.parameters] == [6, 8, 2]
    assert [one.offset for one in LAYOUT.parameters] == [0, 6, 14]
    assert [one.rank_axis for one in LAYOUT.parameters] == [0, 1, None]
    assert LAYOUT.rank == 2


def test_the_rank_is_the_largest_and_0_where_there_is_none():
    assert layout(*LAYOUT.parameters, parameter("k.lora_A.weight", {"rank": 7, "in_features": 3})).rank == 7
    assert layout(LAYOUT.parameters[2]).rank == 0
    assert (Layout(()).size, Layout(()).rank) == (0, 0)


def test_a_scalar_is_one_element():
    assert parameter("s", {}).size == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_what_is_packed_is_seen(dtype):
    theta = LAYOUT.pack(tensors(dtype))
    assert theta.dtype == np.float32
    np.testing.assert_array_equal(theta, np.arange(16, dtype=np.float32))
    views = LAYOUT.views(theta)
    assert list(views) == [one.key for one in LAYOUT.parameters]
    for key, expected in tensors().items():
        np.testing.assert_array_equal(views[key], expected, strict=True)


def test_a_view_writes_theta():
    theta = np.zeros(16, np.float32)
    LAYOUT.views(theta)["q.lora_B.weight"][3, 1] = 5
    assert np.flatnonzero(theta).tolist() == [13]


def test_order_and_further_tensors_do_not_count():
    found = LAYOUT.pack({"more": np.zeros(3), **dict(reversed(tensors().items()))})
    np.testing.assert_array_equal(found, np.arange(16, dtype=np.float32))


def test_what_cannot_be_packed_or_seen():
    held = tensors()
    with pytest.raises(ValueError, match=r"no tensor 'q\.lora_B\.weight'"):
        LAYOUT.pack({key: value for key, value in held.items() if "lora_B" not in key})
    with pytest.raises(ValueError, match=r"'head\.bias' has shape \(2, 1\); expected \(2,\)"):
        LAYOUT.pack({**held, "head.bias": np.zeros((2, 1), np.float32)})
    with pytest.raises(ValueError, match=r"theta has shape \(15,\); expected \(16,\)"):
        LAYOUT.views(np.zeros(15, np.float32))


def test_the_mask_of_decay_has_an_element_for_each_of_theta():
    mask = LAYOUT.decay_mask()
    assert mask.dtype == np.bool_
    assert mask.tolist() == [True] * 14 + [False] * 2
