import json
import struct

import numpy as np
import pytest

from fieldtune.adapters.tensors import StoredTensor, TensorFile, each_array, each_tensor, parse_tensors, read_tensors
from fieldtune.errors import InvalidAdapter


def f32(values):
    return StoredTensor.from_float32(np.array(values, np.float32), "F32")


def raw(header: dict, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_bytes_are_those_of_the_format():
    file = TensorFile(
        tensors={
            "half": StoredTensor(dtype="BF16", shape=(2,), data=b"abcd"),
            "scalar": StoredTensor(dtype="F32", shape=(), data=b"ABCD"),
        },
        metadata={"format": "pt"},
    )
    header = (
        b'{"__metadata__":{"format":"pt"},"scalar":{"dtype":"F32","shape":[],"data_offsets":[0,4]},'
        b'"half":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]}}'
    )
    padded = header + b" " * (-len(header) % 8)
    assert file.to_bytes() == struct.pack("<Q", len(padded)) + padded + b"ABCDabcd"


def test_every_dtype_comes_back_as_it_was():
    codes = {"BOOL": 1, "I8": 1, "U8": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4}
    codes |= {"I64": 8, "U64": 8, "F64": 8, "F8_E4M3": 1, "F8_E5M2": 1}
    tensors = {name: StoredTensor(dtype=name, shape=(3, 1), data=b"\x01" * (3 * size)) for name, size in codes.items()}
    found = parse_tensors(TensorFile(tensors=tensors, metadata={"a": "b", "ü": '\n"'}).to_bytes(), "file")
    assert dict(found.tensors) == tensors
    assert found.metadata == {"a": "b", "ü": '\n"'}


def test_no_metadata_and_no_tensors():
    found = parse_tensors(TensorFile(tensors={}, metadata={}).to_bytes(), "file")
    assert (found.tensors, found.metadata) == ({}, {})


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1,), (2, 3)])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16", "F64"])
def test_shapes_of_every_kind(shape, dtype):
    values = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    stored = StoredTensor.from_float32(values, dtype)
    assert stored.shape == shape
    np.testing.assert_array_equal(stored.float32(), values, strict=True)


def test_every_bfloat16_survives_the_way_through_float32():
    patterns = np.arange(1 << 16, dtype="<u2")
    stored = StoredTensor(dtype="BF16", shape=patterns.shape, data=patterns.tobytes())
    assert StoredTensor.from_float32(stored.float32(), "BF16") == stored


def test_every_float16_number_survives_the_way_through_float32():
    patterns = np.arange(1 << 16, dtype="<u2")
    numbers = patterns[~np.isnan(patterns.view("<f2"))]
    stored = StoredTensor(dtype="F16", shape=numbers.shape, data=numbers.tobytes())
    assert StoredTensor.from_float32(stored.float32(), "F16") == stored


def test_bfloat16_rounds_to_nearest_and_ties_to_even():
    # One step of bfloat16 above 1 is 2**-7.
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-8], np.float32)
    found = StoredTensor.from_float32(values, "BF16").float32()
    np.testing.assert_array_equal(found, np.array([1, 1 + 2**-6, 1 + 2**-7, -1], np.float32))


def test_a_nan_whose_upper_mantissa_is_empty_stays_a_nan():
    values = np.array([0x7F800001, 0xFFFFFFFF, 0x7FC00000], "<u4").view(np.float32)
    assert np.isnan(StoredTensor.from_float32(values, "BF16").float32()).all()


@pytest.mark.parametrize(("dtype", "value"), [("F16", 65520.0), ("BF16", float(np.finfo(np.float32).max))])
def test_a_value_too_large_for_the_dtype_is_refused(dtype, value):
    with pytest.raises(OverflowError, match=f"too large for {dtype}"):
        StoredTensor.from_float32(np.array([1, value], np.float32), dtype)
    assert np.isinf(StoredTensor.from_float32(np.array([np.inf], np.float32), dtype).float32()[0])


def test_integers_are_read_and_not_written():
    assert StoredTensor(dtype="I64", shape=(2,), data=struct.pack("<qq", -7, 9)).float32().tolist() == [-7, 9]
    with pytest.raises(ValueError, match="cannot store float32 as I64"):
        StoredTensor.from_float32(np.zeros(1, np.float32), "I64")
    with pytest.raises(ValueError, match="F8_E4M3 cannot be read"):
        StoredTensor(dtype="F8_E4M3", shape=(1,), data=b"\0").float32()


def test_length_must_be_what_dtype_and_shape_say():
    with pytest.raises(ValueError, match=r"F32 of shape \(2,\) does not take 4 bytes"):
        StoredTensor(dtype="F32", shape=(2,), data=b"abcd")


def test_strided_arrays_are_stored_in_row_major_order():
    values = np.arange(6, dtype=np.float32).reshape(2, 3).T
    for dtype in ("F32", "BF16"):
        np.testing.assert_array_equal(StoredTensor.from_float32(values, dtype).float32(), values)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x10\0\0",
        b"\xff" * 40,
        TensorFile(tensors={"x": f32([1, 2])}, metadata={}).to_bytes()[:-1],
        TensorFile(tensors={"x": f32([1, 2])}, metadata={}).to_bytes() + b"\0",
        raw({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}, b"\0" * 8),
        raw({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"\0" * 8),
        raw({"x": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
        raw({"__metadata__": {"a": 1}}, b""),
        struct.pack("<Q", 8) + b"not json",
    ],
    ids=["empty", "short", "huge", "truncated", "longer", "overlong", "gap", "dtype", "metadata", "json"],
)
def test_corrupt_files_are_refused_with_file_and_reason(tmp_path, data):
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(data)
    with pytest.raises(InvalidAdapter, match=r"adapter_model.safetensors: not a whole safetensors file \(.+\)"):
        read_tensors(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InvalidAdapter, match="cannot be read"):
        read_tensors(tmp_path / "none")


def test_files_of_the_reference_library_come_out_byte_for_byte(tmp_path):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    tensors = {
        "b": np.arange(3, dtype=np.float32),
        "a": np.ones((2, 2), np.float16),
        "d": np.array([True, False, True]),
        "c": np.zeros((0, 4), np.int64),
        "ä\t": np.float64([1.5]),
    }
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    assert read_tensors(path).to_bytes() == path.read_bytes()


def test_some_tensors_are_mapped_where_they_are_float32_and_read_where_they_are_not(tmp_path):
    path = tmp_path / "x.safetensors"
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    half = StoredTensor.from_float32(values, "F16")
    path.write_bytes(TensorFile(tensors={"half": half, "whole": f32(values), "none": f32([])}, metadata={}).to_bytes())
    whole, read, none, again = each_tensor(path, ["whole", "half", "none", "whole"])
    for found in (whole, read, again):
        np.testing.assert_array_equal(found, values)
    assert isinstance(whole.base, np.memmap)
    assert not whole.flags.writeable
    assert none.shape == (0,)


def test_the_tensor_that_a_file_lacks_is_named(tmp_path):
    path = tmp_path / "x.safetensors"
    data = TensorFile(tensors={"a": f32([1.0, 2.0]), "b": f32([3.0])}, metadata={}).to_bytes()
    path.write_bytes(data[:-4])
    found = each_tensor(path, ["a", "b"])
    np.testing.assert_array_equal(next(found), np.float32([1, 2]))
    with pytest.raises(InvalidAdapter, match="holds no whole tensor 'b'"):
        next(found)
    with pytest.raises(InvalidAdapter, match="holds no whole tensor 'c' \\('c'\\)"):
        next(each_tensor(path, ["c"]))
    path.write_bytes(b"\xff" * 8)
    with pytest.raises(InvalidAdapter, match=r"has no whole header .*a header of 18446744073709551615 bytes"):
        next(each_tensor(path, ["a"]))


def test_arrays_are_mapped_in_their_own_dtypes(tmp_path):
    path = tmp_path / "x.safetensors"
    held = {"codes": StoredTensor(dtype="I8", shape=(3, 1), data=b"\x01\xff\x80"), "scales": f32([0.5, 2])}
    half = StoredTensor(dtype="BF16", shape=(1,), data=b"\x00\x00")
    path.write_bytes(TensorFile(tensors={**held, "half": half}, metadata={}).to_bytes())
    codes, scales = each_array(path, ["codes", "scales"])
    assert (codes.dtype, codes.tolist()) == (np.int8, [[1], [-1], [-128]])
    assert (scales.dtype, scales.tolist()) == (np.float32, [0.5, 2])
    for found in (codes, scales):
        assert isinstance(found.base, np.memmap)
        assert not found.flags.writeable
    for name in ("half", "none"):
        with pytest.raises(InvalidAdapter, match=f"holds no whole tensor '{name}'"):
            next(each_array(path, [name]))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InvalidAdapter, match="holds no whole tensor"):
        list(each_array(path, ["codes", "scales", "half"]))
