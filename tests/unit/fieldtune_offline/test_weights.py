"""The weights of all graphs in one safetensors file, and where in it each of them lies."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from fieldtune_offline.quiet import quiet_tracing
from fieldtune_offline.weights import (
    LazyTensor,
    bind_weights,
    is_lifted_constant,
    program_weights,
    read_slots,
    stored_name,
    write_lazy_weights,
    write_weights,
)

FLOATS = np.arange(6, dtype=np.float32).reshape(2, 3)
INTEGERS = np.array([7, -7], np.int64)
HALVES = np.array([1.5], np.float16)


class Tied(nn.Module):
    """An embedding whose weights are the head's, a buffer, and a constant in the code."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.words.weight
        self.register_buffer("scale", torch.full((3,), 2.0))

    def forward(self, ids):
        return self.head(self.words(ids) * self.scale) + torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])


class Deep(nn.Module):
    """One parameter, modules deep."""

    def __init__(self, target):
        super().__init__()
        *parents, leaf = target.split(".")
        part, self.target = self, target
        for parent in parents:
            part.add_module(parent, nn.Module())
            part = part.get_submodule(parent)
        part.register_parameter(leaf, nn.Parameter(torch.ones(2)))

    def forward(self, x):
        return x + self.get_parameter(self.target)


@pytest.fixture
def program():
    with quiet_tracing():
        return torch.export.export(Tied(), (torch.tensor([0, 1]),), strict=False)


def test_tensors_go_by_the_checkpoints_names_and_tied_ones_by_one(program):
    found = program_weights(program, "")
    constants = [name for name in found.tensors if is_lifted_constant(name)]
    assert set(found.tensors) - set(constants) == {"words.weight", "scale"}
    assert (found.names["words.weight"], found.names["head.weight"]) == ("words.weight", "words.weight")
    (constant,) = constants
    assert constant.startswith("constant.5.")
    np.testing.assert_array_equal(found.tensors[constant], [1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ("path", "target", "name"),
    [
        ("model", "model.base_model.model.bert.query.base_layer.weight", "bert.query.weight"),
        ("model", "model.base_model.model.classifier.original_module.bias", "classifier.bias"),
        ("module.model", "module.model.bert.query.weight", "bert.query.weight"),
    ],
)
def test_what_peft_wraps_around_a_layer_is_not_in_its_name(path, target, name):
    with quiet_tracing():
        program = torch.export.export(Deep(target), (torch.ones(2),), strict=False)
    assert name in program_weights(program, path).names.values()


def test_every_tensor_is_found_at_its_place(tmp_path):
    tensors = {"b": torch.from_numpy(FLOATS), "a": torch.from_numpy(INTEGERS), "c.turned": torch.from_numpy(FLOATS).T}
    path = tmp_path / "weights.safetensors"
    slots = write_weights(path, tensors)
    data = path.read_bytes()
    assert list(slots) == ["a", "b", "c.turned"]
    for name, slot in slots.items():
        expected = tensors[name].numpy()
        found = np.frombuffer(data[slot.offset : slot.offset + slot.length], slot.dtype.numpy()).reshape(slot.shape)
        np.testing.assert_array_equal(found, expected)
    assert path.stat().st_mode & 0o777 == 0o644


def lazy(array, **changes):
    values = {"dtype": ir.DataType.from_numpy(array.dtype), "shape": array.shape, "make": lambda: array}
    return LazyTensor(**{**values, **changes})


def test_tensors_that_are_made_one_at_a_time_are_a_safetensors_file_too(tmp_path):
    path = tmp_path / "weights.safetensors"
    arrays = {"half": HALVES, "z": FLOATS.T, "a": FLOATS, "n": INTEGERS}
    slots = write_lazy_weights(path, {name: lazy(array) for name, array in arrays.items()})
    # Wide elements first, so that each is aligned to its own size.
    assert list(slots) == ["n", "a", "z", "half"]
    assert all(slot.offset % slot.dtype.itemsize == 0 for slot in slots.values())
    found = load_file(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


@pytest.mark.parametrize("array", [FLOATS[:1], FLOATS.astype(np.float64), FLOATS.astype(np.int32)])
def test_a_tensor_that_comes_out_otherwise_than_announced_is_an_error(tmp_path, array):
    with pytest.raises(ValueError, match=r"^w: .*; expected FLOAT \(2, 3\)$"):
        write_lazy_weights(tmp_path / "w", {"w": lazy(array, dtype=ir.DataType.FLOAT, shape=(2, 3))})


def test_an_initializer_refers_to_its_bytes_in_the_file_beside_the_graph(tmp_path):
    path = tmp_path / "weights.safetensors"
    slots = write_lazy_weights(path, {"w": lazy(FLOATS), "n": lazy(INTEGERS)})
    value = ir.Value(name="w", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape((2, 3)))
    bind_weights([value], slots, path)
    assert value.const_value.location == "weights.safetensors"
    np.testing.assert_array_equal(value.const_value.numpy(), FLOATS)


def test_twins_lie_where_what_they_are_twins_of_does(tmp_path):
    path = tmp_path / "weights.safetensors"
    slots = write_weights(path, {"codes": torch.from_numpy(FLOATS), "other": torch.ones(7)})
    values = [ir.Value(name=name) for name in ("codes", "codes@backward")]
    bind_weights(values, slots, path)
    one, twin = (value.const_value for value in values)
    assert (one.offset, one.length) == (twin.offset, twin.length)
    assert (one.name, twin.name) == ("codes", "codes@backward")
    np.testing.assert_array_equal(twin.numpy(), FLOATS)


@pytest.mark.parametrize(
    ("name", "stored"), [("q.codes@backward", "q.codes"), ("q.codes", "q.codes"), ("a@backward.b", "a@backward.b")]
)
def test_a_twin_has_no_name_of_its_own_in_the_file(name, stored):
    assert stored_name(name) == stored


def test_slots_are_read_from_a_file_as_writing_gave_them(tmp_path):
    lazily, path = tmp_path / "lazily", tmp_path / "at once"
    arrays = {"half": HALVES, "turned": FLOATS.T, "n": INTEGERS, "bytes": np.arange(3, dtype=np.uint8)}
    arrays["codes"] = np.array([[-5]], np.int8)
    written = write_lazy_weights(lazily, {name: lazy(array) for name, array in arrays.items()})
    assert read_slots(lazily) == written
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    assert set(write_weights(path, tensors)) == set(arrays)
    data = path.read_bytes()
    for name, slot in read_slots(path).items():
        found = np.frombuffer(data[slot.offset : slot.offset + slot.length], slot.dtype.numpy()).reshape(slot.shape)
        np.testing.assert_array_equal(found, arrays[name])
