"""safetensors files in and out, with every dtype kept bit for bit.

NumPy has no bfloat16, so a tensor stays the bytes it was stored as until somebody asks for float32.
"""

import contextlib
import dataclasses
import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize

from fieldtune.bundle import FloatArray
from fieldtune.errors import InvalidAdapter

FLOAT_DTYPES = ("F32", "BF16", "F16", "F64")
"""The dtypes, as safetensors names them, that ``StoredTensor.from_float32`` can write."""

_NUMPY_DTYPES = {
    "BOOL": "?",
    "I8": "i1",
    "U8": "u1",
    "I16": "<i2",
    "U16": "<u2",
    "F16": "<f2",
    "I32": "<i4",
    "U32": "<u4",
    "F32": "<f4",
    "I64": "<i8",
    "U64": "<u8",
    "F64": "<f8",
}
_ITEM_BYTES = {name: np.dtype(code).itemsize for name, code in _NUMPY_DTYPES.items()} | {"BF16": 2, "C64": 8}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """One tensor as it lies in a file.

    Attributes:
        dtype: as safetensors names it: F32, BF16, F16, I64, …
        shape: sizes.
        data: its elements, little-endian, in row-major order.

    Raises:
        ValueError: if ``data`` is not as long as dtype and shape say.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def __post_init__(self) -> None:
        # Dtypes narrower than a byte, and those to come, are carried along unmeasured.
        item_bytes = _ITEM_BYTES.get(self.dtype)
        if item_bytes is not None and len(self.data) != item_bytes * math.prod(self.shape):
            raise ValueError(f"{self.dtype} of shape {self.shape} does not take {len(self.data)} bytes")

    def float32(self) -> FloatArray:
        """Return the values as a new float32 array of the tensor's shape; exact but for F64 and wide integers.

        Raises:
            ValueError: if the dtype is one that NumPy cannot read.
        """
        if self.dtype == "BF16":
            # bfloat16 is the upper half of a float32.
            upper = np.frombuffer(self.data, "<u2").astype(np.uint32)
            return (upper << np.uint32(16)).view(np.float32).reshape(self.shape)
        if self.dtype not in _NUMPY_DTYPES:
            raise ValueError(f"{self.dtype} cannot be read as float32")
        return np.frombuffer(self.data, _NUMPY_DTYPES[self.dtype]).astype(np.float32).reshape(self.shape)

    @classmethod
    def from_float32(cls, values: npt.NDArray[np.float32], dtype: str) -> "StoredTensor":
        """Store float32 values of any shape as F32, BF16, F16 or F64: rounded to nearest, ties to even, NaN kept.

        Raises:
            OverflowError: if a finite value is too large for the dtype.
            ValueError: if the dtype is none of the four.
        """
        if dtype not in FLOAT_DTYPES:
            raise ValueError(f"cannot store float32 as {dtype}; expected one of {', '.join(FLOAT_DTYPES)}")
        if dtype == "BF16":
            data = _bfloat16_bits(values).tobytes()
        else:
            with np.errstate(over="ignore"):
                data = values.astype(_NUMPY_DTYPES[dtype]).tobytes()
        stored = cls(dtype=dtype, shape=tuple(values.shape), data=data)
        if dtype in ("BF16", "F16") and np.any(np.isinf(stored.float32()) & np.isfinite(values)):
            raise OverflowError(f"a value of {np.abs(values[np.isfinite(values)]).max():g} is too large for {dtype}")
        return stored


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TensorFile:
    """What a safetensors file holds: tensors in the order of their bytes, and the texts of its header's metadata."""

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]

    def to_bytes(self) -> bytes:
        """Return the file's bytes, in the safetensors format (its README: size of the header, header, data).

        Written here because the arguments of ``safetensors.serialize`` changed from dictionaries to memory addresses in
        0.8. Wider dtypes come first, as that function puts them, so that every tensor is aligned to its element; what
        it wrote comes out byte for byte.
        """
        names = sorted(self.tensors, key=lambda name: -_ITEM_BYTES.get(self.tensors[name].dtype, 1))
        header: dict[str, object] = {"__metadata__": dict(self.metadata)} if self.metadata else {}
        end = 0
        for name in names:
            tensor = self.tensors[name]
            start, end = end, end + len(tensor.data)
            header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return b"".join([struct.pack("<Q", len(text)), text, *(self.tensors[name].data for name in names)])


def read_tensors(path: Path) -> TensorFile:
    """Read a safetensors file whole.

    Raises:
        InvalidAdapter: if it cannot be read, or is corrupt; with the file and the reason.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidAdapter(f"{path}: cannot be read ({error.strerror})") from error
    return parse_tensors(data, str(path))


def each_tensor(path: Path, names: Sequence[str]) -> Iterator[FloatArray]:
    """Give some tensors of a safetensors file as float32, one after the other; the others are not read.

    What is stored as F32 is mapped into memory, read-only, as the graphs have the same bytes already.

    Raises:
        InvalidAdapter: the file cannot be read, or lacks a tensor.
    """
    for name, file, dtype, shape, (start, end) in _each_place(path, names):
        with _named(path, name):
            if dtype == "F32" and end - start == 4 * math.prod(shape) > 0:
                found = np.asarray(np.memmap(file, "<f4", "r", start, shape))
            else:
                file.seek(start)
                found = StoredTensor(dtype=dtype, shape=shape, data=file.read(end - start)).float32()
        yield found


def each_array(path: Path, names: Sequence[str]) -> Iterator[npt.NDArray[Any]]:
    """Give some tensors of a safetensors file in their own dtypes, mapped into memory, read-only; as ``each_tensor``.

    Raises:
        InvalidAdapter: the file cannot be read, lacks a tensor, or has one without values or of a dtype that NumPy
            does not know.
    """
    for name, file, dtype, shape, (start, end) in _each_place(path, names):
        with _named(path, name):
            if dtype not in _NUMPY_DTYPES or end - start != _ITEM_BYTES[dtype] * math.prod(shape):
                raise ValueError(f"{end - start} bytes of {dtype} with the shape {shape}")
            found = np.asarray(np.memmap(file, _NUMPY_DTYPES[dtype], "r", start, shape))
        yield found


_Place: TypeAlias = tuple[str, BinaryIO, str, tuple[int, ...], tuple[int, int]]
"""Name of a tensor, the open file, dtype, shape, and where its bytes begin and end."""


def _each_place(path: Path, names: Sequence[str]) -> Iterator[_Place]:
    with _named(path, ""):
        file = path.open("rb")
    with file:
        with _named(path, ""):
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            if header_bytes > path.stat().st_size:
                raise ValueError(f"a header of {header_bytes} bytes")
            entries = json.loads(file.read(header_bytes))
        for name in names:
            with _named(path, name):
                entry = entries[name]
                start, end = entry["data_offsets"]
                place = 8 + header_bytes + start, 8 + header_bytes + end
                found = name, file, str(entry["dtype"]), tuple(entry["shape"]), place
            yield found


@contextlib.contextmanager
def _named(path: Path, name: str) -> Iterator[None]:
    """Say which tensor of a file could not be read, or that its header could not."""
    try:
        yield
    except OSError as error:
        raise InvalidAdapter(f"{path}: cannot be read ({error.strerror})") from error
    except (struct.error, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        lacking = f"holds no whole tensor {name!r}" if name else "has no whole header"
        raise InvalidAdapter(f"{path}: {lacking} ({error}); copy or build it again") from error


def parse_tensors(data: bytes, where: str) -> TensorFile:
    """Read the bytes of a safetensors file; ``where`` is what the message calls it.

    Raises:
        InvalidAdapter: if they are corrupt.
    """
    try:
        # The reference reader checks lengths, offsets, overlaps and gaps; only then is the header trusted below.
        entries = dict(deserialize(data))  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise InvalidAdapter(f"{where}: not a whole safetensors file ({error}); copy it or save it again") from error
    (header_bytes,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + header_bytes].decode())
    metadata = header.pop("__metadata__", None) or {}
    return TensorFile(
        tensors={
            name: StoredTensor(
                dtype=str(entries[name]["dtype"]),
                shape=tuple(entries[name]["shape"]),
                data=bytes(entries[name]["data"]),
            )
            for name in sorted(header, key=lambda name: header[name]["data_offsets"])
        },
        metadata=metadata,
    )


def _bfloat16_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    upper = bits >> np.uint32(16)
    # Adding just under half of the last kept place, plus that place's bit, rounds to nearest and ties to even. Unsigned
    # addition wraps for some NaNs, which are replaced in the next lines.
    rounded = (bits + np.uint32(0x7FFF) + (upper & np.uint32(1))) >> np.uint32(16)
    # A NaN is cut instead, so that it cannot round to infinity; a mantissa that would be lost whole keeps its top bit.
    cut = np.where((upper & np.uint32(0x7F)) == 0, upper | np.uint32(0x40), upper)
    return np.where(np.isnan(values), cut, rounded).astype("<u2")
