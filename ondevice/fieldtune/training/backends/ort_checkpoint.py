"""Checkpoint files of ONNX Runtime's training API: parameters and AdamW's state read, and the state replaced.

The API can save the optimizer's moments to a file and load them from one, and shows them nowhere else. The files are
FlatBuffers with the identifier ODTC; the numbers of the fields below are those of ort_training_checkpoint.fbs and
ort.fbs in ONNX Runtime's sources (onnxruntime/core/flatbuffers/schema, release 1.19).
"""

import contextlib
import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fieldtune.bundle import FloatArray, Layout
from fieldtune.errors import CheckpointError, listed
from fieldtune.training.backends.optimizers import State

_IDENTIFIER = b"ODTC"
_, _CHECKPOINT_MODULE, _CHECKPOINT_GROUPS = range(3)
_MODULE_TRAINED, _, _MODULE_NOMINAL = range(3)
_GROUP_NAME, _GROUP_STEP, _GROUP_RATE, _GROUP_STATES = range(4)
_STATE_NAME, _STATE_MOMENTS = range(2)
_TENSOR_NAME, _, _TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_BYTES = range(5)
_FLOAT = 1
_MOMENTS = {"mean": "momentum0", "mean_square": "momentum1"}
"""Our name of a moment → ONNX Runtime's."""
_GROUP = "group0"
_ALIGNMENT = 16


def read_parameters(path: Path, layout: Layout) -> FloatArray:
    """Return the trained parameters of a checkpoint as theta: float32, shape ``(layout.size,)``.

    Raises:
        CheckpointError: cannot be read, not a checkpoint, a nominal one, or of other parameters than the layout's.
    """
    with _mapped(path) as buffer:
        module = _root(buffer, path).table(_CHECKPOINT_MODULE)
        if module is None or module.byte(_MODULE_NOMINAL):
            raise CheckpointError(f"{path}: holds the names of parameters and no values; save the trained checkpoint")
        stored = {tensor.text(_TENSOR_NAME): _values(tensor) for tensor in module.tables(_MODULE_TRAINED)}
    return _packed(stored, layout, "values", path)


def read_adamw(path: Path, layout: Layout) -> State:
    """Return AdamW's state from a checkpoint that was saved with its optimizer, as ``optimizers.AdamW.state`` does.

    Raises:
        CheckpointError: not a checkpoint, saved without an optimizer, or of other parameters than the layout's.
    """
    with _mapped(path) as buffer:
        group = _only_group(buffer, path)
        stored: dict[str, dict[str, FloatArray]] = {theirs: {} for theirs in _MOMENTS.values()}
        for entry in group.tables(_GROUP_STATES):
            for tensor in entry.tables(_STATE_MOMENTS):
                stored.setdefault(tensor.text(_TENSOR_NAME), {})[entry.text(_STATE_NAME)] = _values(tensor)
        step = np.array(group.int64(_GROUP_STEP), np.int64)
    moments = {ours: _packed(stored[theirs], layout, theirs, path) for ours, theirs in _MOMENTS.items()}
    return {"step": step, **moments}


def replace_adamw(path: Path, layout: Layout, state: Mapping[str, npt.NDArray[Any]]) -> None:
    """Put AdamW's state into a checkpoint that was saved with its optimizer, in place of what it holds.

    The new state is appended to the file and the reference to the old one turned to it; all else, the frozen weights
    among it, stays where it is.

    Raises:
        CheckpointError: as ``read_adamw``.
    """
    with path.open("r+b") as file:
        with _mapped(path) as buffer:
            _only_group(buffer, path)
            slot = _root(buffer, path).slot(_CHECKPOINT_GROUPS)
        file.seek(0, 2)
        file.write(b"\0" * (-file.tell() % _ALIGNMENT))
        start = file.tell()
        block, groups = _groups(layout, state)
        file.write(block)
        # An offset counts from where it stands, forward.
        file.seek(slot)
        file.write(struct.pack("<I", start + groups - slot))


def _groups(layout: Layout, state: Mapping[str, npt.NDArray[Any]]) -> tuple[bytes, int]:
    """Return a FlatBuffer that holds a vector with one group, and where in it the vector stands."""
    from flatbuffers import Builder

    build = Builder(1024 + 3 * 4 * layout.size)
    views = {theirs: layout.views(state[ours]) for ours, theirs in _MOMENTS.items()}
    entries = []
    for parameter in layout.parameters:
        tensors = []
        for theirs, tensors_by_key in views.items():
            values = np.ascontiguousarray(tensors_by_key[parameter.key]).reshape(-1)
            raw = build.CreateByteVector(values.tobytes())
            dims = build.CreateNumpyVector(np.array(parameter.shape, np.int64))
            name = build.CreateString(theirs)
            build.StartObject(6)
            build.PrependUOffsetTRelativeSlot(_TENSOR_NAME, name, 0)
            build.PrependUOffsetTRelativeSlot(_TENSOR_DIMS, dims, 0)
            build.PrependInt32Slot(_TENSOR_TYPE, _FLOAT, 0)
            build.PrependUOffsetTRelativeSlot(_TENSOR_BYTES, raw, 0)
            tensors.append(build.EndObject())
        moments = _vector(build, tensors)
        key = build.CreateString(parameter.key)
        build.StartObject(2)
        build.PrependUOffsetTRelativeSlot(_STATE_NAME, key, 0)
        build.PrependUOffsetTRelativeSlot(_STATE_MOMENTS, moments, 0)
        entries.append(build.EndObject())
    states = _vector(build, entries)
    group_name = build.CreateString(_GROUP)
    build.StartObject(4)
    build.PrependUOffsetTRelativeSlot(_GROUP_NAME, group_name, 0)
    build.PrependInt64Slot(_GROUP_STEP, int(state["step"]), 0)
    # The rate is set before each step; ONNX Runtime refuses a group without one.
    build.PrependFloat32Slot(_GROUP_RATE, 1e-3, 0.0)
    build.PrependUOffsetTRelativeSlot(_GROUP_STATES, states, 0)
    groups = _vector(build, [build.EndObject()])
    build.Finish(groups)
    block = bytes(build.Output())
    return block, len(block) - groups


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    """Map a file; whatever in it leads outside it is the file's fault."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
            yield buffer
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint of ONNX Runtime's training API: {error}"
        ) from error


def _values(tensor: "_FlatTable") -> FloatArray:
    """Return a tensor's float32 values, flat; none where it holds another type."""
    data = tensor.bytes(_TENSOR_BYTES) if tensor.int32(_TENSOR_TYPE) == _FLOAT else b""
    return np.frombuffer(data, np.float32)


def _packed(stored: Mapping[str, FloatArray], layout: Layout, what: str, path: Path) -> FloatArray:
    vector = np.empty(layout.size, np.float32)
    faults = []
    for key, view in layout.views(vector).items():
        if key not in stored:
            faults.append(f"{key}: no {what}")
        elif stored[key].size != view.size:
            faults.append(f"{key}: {what} of {stored[key].size} numbers; expected {view.size}")
        else:
            view[...] = stored[key].reshape(view.shape)
    if faults:
        raise CheckpointError(f"{path}: not of this bundle's adapter; {len(faults)} parameter(s){listed(faults)}")
    return vector


def _vector(build: Any, offsets: list[int]) -> int:
    build.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        build.PrependUOffsetTRelative(offset)
    vector: int = build.EndVector()
    return vector


class _FlatTable:
    """A table of a FlatBuffer: fields by number."""

    def __init__(self, buffer: mmap.mmap, position: int) -> None:
        self._buffer = buffer
        self._position = position

    def slot(self, number: int) -> int:
        """Return where a field's value stands, or 0 if it is left out."""
        (back,) = struct.unpack_from("<i", self._buffer, self._position)
        table = self._position - back
        (size,) = struct.unpack_from("<H", self._buffer, table)
        entry = 4 + 2 * number
        if entry >= size:
            return 0
        (offset,) = struct.unpack_from("<H", self._buffer, table + entry)
        return self._position + offset if offset else 0

    def byte(self, number: int) -> int:
        """Return a number of 8 bits; a field that is left out is 0."""
        return self._number(number, "<b")

    def int32(self, number: int) -> int:
        """Return a number of 32 bits; a field that is left out is 0."""
        return self._number(number, "<i")

    def int64(self, number: int) -> int:
        """Return a number of 64 bits; a field that is left out is 0."""
        return self._number(number, "<q")

    def bytes(self, number: int) -> bytes:
        """Return a vector of bytes."""
        start, count = self._vector(number)
        return self._buffer[start : start + count]

    def text(self, number: int) -> str:
        """Return a string."""
        return self.bytes(number).decode()

    def table(self, number: int) -> "_FlatTable | None":
        """Return a table, or None for a field that is left out."""
        slot = self.slot(number)
        return _FlatTable(self._buffer, slot + struct.unpack_from("<I", self._buffer, slot)[0]) if slot else None

    def tables(self, number: int) -> "Iterator[_FlatTable]":
        """Yield the tables of a vector."""
        start, count = self._vector(number)
        for place in range(start, start + 4 * count, 4):
            (offset,) = struct.unpack_from("<I", self._buffer, place)
            yield _FlatTable(self._buffer, place + offset)

    def _number(self, number: int, form: str) -> int:
        slot = self.slot(number)
        return int(struct.unpack_from(form, self._buffer, slot)[0]) if slot else 0

    def _vector(self, number: int) -> tuple[int, int]:
        slot = self.slot(number)
        if not slot:
            return 0, 0
        start = slot + struct.unpack_from("<I", self._buffer, slot)[0]
        return start + 4, struct.unpack_from("<I", self._buffer, start)[0]


def _root(buffer: mmap.mmap, path: Path) -> _FlatTable:
    if buffer[4:8] != _IDENTIFIER:
        raise CheckpointError(f"{path}: not a checkpoint of ONNX Runtime's training API")
    return _FlatTable(buffer, struct.unpack_from("<I", buffer, 0)[0])


def _only_group(buffer: mmap.mmap, path: Path) -> _FlatTable:
    groups = list(_root(buffer, path).tables(_CHECKPOINT_GROUPS))
    if len(groups) != 1:
        raise CheckpointError(f"{path}: holds {len(groups)} optimizer groups; expected 1: saved with its optimizer?")
    return groups[0]
