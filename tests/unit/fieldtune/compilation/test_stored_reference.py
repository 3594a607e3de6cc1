"""The stored reference of a target: its inputs, and both roundings of its outputs."""

import dataclasses

import numpy as np
import pytest

from builders import full_profile, graph_spec, image_spec, manifest, stored, target_spec, tensor_spec, write_bundle
from fieldtune.adapters.tensors import TensorFile
from fieldtune.compilation.stored_reference import HALF_UP, read_reference
from fieldtune.errors import CorruptFile

TARGET = target_spec(full_profile())
X = np.arange(6, dtype=np.float32).reshape(2, 3)
ARRAYS = {"x": X, "b": X + 1, f"b{HALF_UP}": X + 2}


@pytest.fixture
def bundle(tmp_path):
    """The function that makes a bundle whose reference holds these arrays."""

    def make(arrays):
        graph = graph_spec(TARGET.graph, inputs=(tensor_spec("x", 2, 3),), outputs=(tensor_spec("b", 2, 3),))
        described = manifest(image=image_spec(), graphs={TARGET.graph: graph}, targets={"board": TARGET})
        held = TensorFile(tensors={name: stored(array) for name, array in arrays.items()}, metadata={})
        return write_bundle(tmp_path, described, {TARGET.reference: held.to_bytes()})

    return make


def test_inputs_and_both_roundings_are_read(bundle):
    found = read_reference(bundle({**ARRAYS, "more": X}), TARGET)
    np.testing.assert_array_equal(found.inputs["x"], X, strict=True)
    np.testing.assert_array_equal(found.half_even["b"], X + 1, strict=True)
    np.testing.assert_array_equal(found.half_up["b"], X + 2, strict=True)
    assert [list(part) for part in (found.inputs, found.half_even, found.half_up)] == [["x"], ["b"], ["b"]]
    assert found.samples == 2


@pytest.mark.parametrize("name", ARRAYS)
def test_a_tensor_that_is_missing_is_named_with_those_that_are_there(bundle, name):
    made = bundle({key: value for key, value in ARRAYS.items() if key != name})
    with pytest.raises(CorruptFile) as caught:
        read_reference(made, TARGET)
    others = ", ".join(sorted(key for key in ARRAYS if key != name))
    path = made.root / TARGET.reference
    assert str(caught.value) == f"{path}: has no tensor {name}, but {others}; build the bundle again"


def test_a_reference_that_is_damaged_or_gone(bundle):
    made = bundle(ARRAYS)
    path = made.root / TARGET.reference
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptFile, match=r"reference\.safetensors: not a whole safetensors file \("):
        read_reference(made, TARGET)
    path.unlink()
    with pytest.raises(CorruptFile, match=r"reference\.safetensors: not a whole safetensors file \("):
        read_reference(made, dataclasses.replace(TARGET))
