"""The weights of all graphs in one safetensors file, which is at the same time their external data.

ONNX Runtime takes location, offset and length of a tensor's bytes, wherever in a file they are, so no graph carries a
copy. The file lies beside the graphs: ONNX Runtime from 1.24 on refuses external data outside the graph's own folder.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from fieldtune_offline.lowering.builder import TWIN, onnx_dtype

_CONSTANT = "constant."
_ALIGNMENT = 64
_SAFETENSORS_DTYPES = {
    ir.DataType.FLOAT: "F32",
    ir.DataType.DOUBLE: "F64",
    ir.DataType.FLOAT16: "F16",
    ir.DataType.BFLOAT16: "BF16",
    ir.DataType.INT64: "I64",
    ir.DataType.INT32: "I32",
    ir.DataType.INT8: "I8",
    ir.DataType.UINT8: "U8",
    ir.DataType.BOOL: "BOOL",
}


def is_lifted_constant(name: str) -> bool:
    """Whether a name is that of a constant in the model's code; it is written into the graph: shapes may need it."""
    return name.startswith(_CONSTANT)


def stored_name(name: str) -> str:
    """Return the name that a weight of a graph has in the file, where a twin has none of its own."""
    return name.removesuffix(TWIN)


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """Where a tensor lies in the file."""

    offset: int
    length: int
    dtype: ir.DataType
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class LazyTensor:
    """A tensor that is made when it is written, so that one at a time is in memory."""

    dtype: ir.DataType
    shape: tuple[int, ...]
    make: Callable[[], npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class ProgramWeights:
    """The tensors that a program brings along.

    Attributes:
        names: parameter, buffer or constant of the program → its name in the graph: the checkpoint's, where it has one.
        tensors: name in the graph → tensor. Tensors that share storage (tied embeddings) have one name.
    """

    names: Mapping[str, str]
    tensors: Mapping[str, torch.Tensor]


def program_weights(program: ExportedProgram, model_path: str) -> ProgramWeights:
    """Name the tensors of a program whose model lies at an attribute path of the traced module."""
    constants = {name: value for name, value in program.constants.items() if isinstance(value, torch.Tensor)}
    held = {**constants, **program.state_dict}
    names: dict[str, str] = {}
    tensors: dict[str, torch.Tensor] = {}
    by_storage: dict[tuple[int, tuple[int, ...]], str] = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT or spec.target is None:
            continue
        tensor = held[spec.target]
        if spec.kind == InputKind.CONSTANT_TENSOR:
            digest = hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()
            name = f"{_CONSTANT}{'x'.join(map(str, tensor.shape))}.{digest[:12]}"
        else:
            name = _checkpoint_name(spec.target, model_path)
            if tensor.numel():
                name = by_storage.setdefault((tensor.data_ptr(), tuple(tensor.shape)), name)
        names[spec.target] = name
        tensors.setdefault(name, tensor)
    return ProgramWeights(names, tensors)


def _checkpoint_name(target: str, model_path: str) -> str:
    target = target.removeprefix(f"{model_path}.").removeprefix("base_model.model.")
    return target.replace(".base_layer.", ".").replace(".original_module.", ".")


def write_weights(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, Slot]:
    """Write tensors one after another, as ``write_lazy_weights`` does, and return where each lies."""
    lazy = {
        name: LazyTensor(onnx_dtype(tensor.dtype), tuple(tensor.shape), tensor.detach().numpy)
        for name, tensor in tensors.items()
    }
    return write_lazy_weights(path, lazy)


def read_slots(path: Path) -> dict[str, Slot]:
    """Return where each tensor of a file lies."""
    dtypes = {name: dtype for dtype, name in _SAFETENSORS_DTYPES.items()}
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_bytes))
    slots: dict[str, Slot] = {}
    for name, held in header.items():
        if name != "__metadata__":
            start, end = held["data_offsets"]
            slots[name] = Slot(8 + header_bytes + start, end - start, dtypes[held["dtype"]], tuple(held["shape"]))
    return slots


def write_lazy_weights(path: Path, tensors: Mapping[str, LazyTensor]) -> dict[str, Slot]:
    """Write tensors in the order of their names, wide dtypes first, making one at a time; return where each lies.

    Raises:
        ValueError: a tensor that comes out in another dtype or shape than it was announced with.
    """
    # So that every tensor is aligned to its element, as safetensors' own writer has it.
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    slots: dict[str, Slot] = {}
    end = 0
    for name, tensor in ordered.items():
        start, end = end, end + int(tensor.dtype.itemsize * math.prod(tensor.shape))
        dtype = _SAFETENSORS_DTYPES[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
        slots[name] = Slot(start, end - start, tensor.dtype, tensor.shape)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in ordered.items():
            array = np.ascontiguousarray(tensor.make())
            if array.nbytes != slots[name].length or ir.DataType.from_numpy(array.dtype) != tensor.dtype:
                raise ValueError(
                    f"{name}: {array.dtype} of shape {array.shape}; expected {tensor.dtype} {tensor.shape}"
                )
            file.write(array.reshape(-1).view(np.uint8).data)
    return {name: dataclasses.replace(slot, offset=8 + len(text) + slot.offset) for name, slot in slots.items()}


class Scratch:
    """Tensors that are put into a file one after another, and mapped from there.

    Args:
        path: of the file, which is made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()

    def keep(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Write tensors, and return the same mapped; nothing but the file holds them then."""
        kept = []
        with self._path.open("ab") as file:
            for tensor in tensors:
                file.write(b"\0" * (-file.tell() % _ALIGNMENT))
                kept.append((file.tell(), tensor))
                file.write(np.ascontiguousarray(tensor.detach().numpy()).reshape(-1).view(np.uint8).data)
        return [
            mapped_tensor(self._path, Slot(offset, tensor.nbytes, onnx_dtype(tensor.dtype), tuple(tensor.shape)))
            for offset, tensor in kept
        ]


def mapped_tensor(path: Path, slot: Slot) -> torch.Tensor:
    """Return a tensor of a file, mapped; one without elements is not in it."""
    if not slot.length:
        return torch.from_numpy(np.empty(slot.shape, slot.dtype.numpy()))
    # Copied on writing, as torch wants memory that it could write to; nothing writes.
    return torch.from_numpy(np.memmap(path, slot.dtype.numpy(), "c", slot.offset, slot.shape))


def bind_weights(values: Iterable[ir.Value], slots: Mapping[str, Slot], path: Path) -> None:
    """Make each initializer refer to its bytes in the file."""
    for value in values:
        assert value.name is not None
        slot = slots[stored_name(value.name)]
        value.const_value = ir.ExternalTensor(
            path.name,
            slot.offset,
            slot.length,
            slot.dtype,
            shape=ir.Shape(slot.shape),
            name=value.name,
            base_dir=path.parent,
        )
