import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fieldtune.adapters.tensors import StoredTensor, TensorFile, parse_tensors
from fieldtune.errors import InvalidAdapter

FLOATS = arrays.arrays(
    np.uint32, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0), elements=st.integers(0, 2**32 - 1)
).map(lambda bits: bits.view(np.float32))

STORED = st.sampled_from([("BOOL", 1), ("U8", 1), ("F16", 2), ("BF16", 2), ("I32", 4), ("F32", 4), ("F64", 8)]).flatmap(
    lambda kind: arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4).flatmap(
        lambda shape: st.binary(min_size=(size := kind[1] * int(np.prod(shape))), max_size=size).map(
            lambda data: StoredTensor(dtype=kind[0], shape=shape, data=data)
        )
    )
)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda name: name != "__metadata__")
FILES = st.builds(
    lambda tensors, metadata: TensorFile(tensors=tensors, metadata=metadata),
    st.dictionaries(NAMES, STORED, max_size=4),
    st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")), max_size=3),
)


@settings(deadline=None)
@given(FILES)
def test_what_is_written_is_what_is_read(file):
    found = parse_tensors(file.to_bytes(), "file")
    assert dict(found.tensors) == dict(file.tensors)
    assert found.metadata == file.metadata


@settings(deadline=None)
@given(FILES)
def test_a_second_writing_changes_no_byte(file):
    once = file.to_bytes()
    assert parse_tensors(once, "file").to_bytes() == once


@settings(deadline=None)
@given(FILES, st.data())
def test_damaged_bytes_are_read_or_refused_and_never_anything_else(file, data):
    damaged = bytearray(file.to_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = parse_tensors(bytes(damaged), "file")
    except InvalidAdapter as error:
        assert str(error).startswith("file: ")  # noqa: PT017 - both outcomes are right
    else:
        assert all(isinstance(tensor.data, bytes) for tensor in found.tensors.values())


@settings(deadline=None)
@given(FLOATS)
def test_bfloat16_is_the_nearest_number_that_torch_finds(values):
    torch = pytest.importorskip("torch")
    try:
        stored = StoredTensor.from_float32(values, "BF16")
    except OverflowError:
        stored = None
    expected = torch.from_numpy(values.copy()).to(torch.bfloat16).float().numpy()
    if stored is None:
        assert np.any(np.isinf(expected) & np.isfinite(values))
    else:
        np.testing.assert_array_equal(stored.float32(), expected, strict=True)


@settings(deadline=None)
@given(FLOATS)
def test_float32_is_kept_bit_for_bit(values):
    found = StoredTensor.from_float32(values, "F32").float32()
    np.testing.assert_array_equal(found.view(np.uint32), values.view(np.uint32), strict=True)
