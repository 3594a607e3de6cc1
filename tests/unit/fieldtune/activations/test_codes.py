import numpy as np
import pytest

from builders import node, node_table, quantization
from fieldtune.activations.codes import RecordForm, record_form

SHAPES = {"a": (3, 4), "b": (5,)}


def dequantized(form, codes):
    return {
        name: (codes[name].astype(np.float32) - found.zero_point[0]) * np.float32(found.scale[0])
        for name, found in form.codes.items()
    }


@pytest.mark.parametrize(("dtype", "zero_point"), [("int8", 0), ("int8", -3), ("uint8", 0), ("uint8", 128)])
@pytest.mark.parametrize("scale", [2.0**-7, 0.5, 1.0, 4.0])
def test_every_code_comes_back_in_a_quarter_of_the_bytes(dtype, zero_point, scale):
    form = RecordForm(names=("a",), codes={"a": quantization(scale, zero_point, dtype=dtype)})
    limits = np.iinfo(dtype)
    codes = np.arange(limits.min, limits.max + 1).astype(dtype).reshape(16, 16)
    boundary = dequantized(form, {"a": codes})
    record = form.encode(boundary)
    assert record == codes.tobytes()
    assert form.decode(record, {"a": (16, 16)})["a"].tobytes() == boundary["a"].tobytes()


@pytest.mark.parametrize("odd", [0.0625, -0.0, 1e9, np.nan, np.inf, 16.0, 1e-40])
def test_what_codes_cannot_say_is_stored_as_it_is(odd):
    form = RecordForm(names=("a", "b"), codes={"a": quantization()})
    boundary = {"a": np.ones((3, 4), np.float32), "b": np.arange(5, dtype=np.float32)}
    assert len(form.encode(boundary)) == 12 + 5 * 4
    boundary["a"][1, 2] = odd
    record = form.encode(boundary)
    assert len(record) == (12 + 5) * 4
    found = form.decode(record, SHAPES)
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in boundary.items()
    }


def test_several_tensors_come_back_under_their_names():
    rng = np.random.default_rng(0)
    boundary = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    form = RecordForm(names=("b", "a"), codes={})
    found = form.decode(form.encode(boundary), SHAPES)
    assert {name: array.shape for name, array in found.items()} == SHAPES
    assert all(np.array_equal(found[name], boundary[name]) for name in SHAPES)


def test_a_record_of_another_length_is_none():
    form = RecordForm(names=("a", "b"), codes={"b": quantization()})
    record = form.encode({"a": np.ones((3, 4), np.float32), "b": np.ones(5, np.float32)})
    assert form.decode(record[:-1], SHAPES) is None
    assert form.decode(record, {"a": (3, 5), "b": (5,)}) is None


def test_codes_are_taken_from_one_scale_that_is_a_power_of_two():
    good = quantization(2.0**-5)
    nodes = [
        node("DequantizeLinear", [], ["good"], quantization=good),
        node("DequantizeLinear", [], ["odd"], quantization=quantization(0.1)),
        node("DequantizeLinear", [], ["channels"], quantization=quantization(0.5, axis=1)),
        node("DequantizeLinear", [], ["wide"], quantization=quantization(0.5, dtype="int32")),
        node("DequantizeLinear", [], ["unknown"]),
        node("Relu", [], ["float"]),
    ]
    names = ("good", "odd", "channels", "wide", "unknown", "float", "input")
    assert record_form(node_table(*nodes), names) == RecordForm(names=names, codes={"good": good})
