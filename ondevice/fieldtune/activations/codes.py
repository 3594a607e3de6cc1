"""A sample's boundary activations as bytes: float32, or the integer codes that they were dequantized from."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fieldtune.bundle import FloatArray, NodeTable, Quantization

_CODE_DTYPES = ("int8", "uint8")
_FLOAT_BYTES = 4


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RecordForm:
    """How the boundary of one sample becomes bytes, and bytes the boundary again, bit for bit.

    A record is its tensors one after another, little-endian and in row-major order; how long it is tells which of two
    forms it has. In the first, every tensor that ``codes`` has is one byte an element; in the second, all is float32.

    Attributes:
        names: of the boundary tensors, in the order in which a record holds them.
        codes: those that a DequantizeLinear with one scale, a power of two, gives.
    """

    names: tuple[str, ...]
    codes: Mapping[str, Quantization]

    def encode(self, boundary: Mapping[str, FloatArray]) -> bytes:
        """Return the record of one sample: codes where they give back its very bits, else float32.

        Args:
            boundary: name → float32, without the batch axis.
        """
        parts = [np.ascontiguousarray(boundary[name], "<f4") for name in self.names]
        coded = [self._coded(name, part) for name, part in zip(self.names, parts, strict=True)]
        if any(part is None for part in coded):
            coded = list(parts)
        return b"".join(part.tobytes() for part in coded if part is not None)

    def decode(self, record: bytes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, npt.NDArray[np.float32]] | None:
        """Return a record's boundary, or None where it is none of these shapes.

        Args:
            record: as ``encode`` returned it.
            shapes: name → sizes, without the batch axis.
        """
        sizes = {name: math.prod(shapes[name]) for name in self.names}
        item_bytes = {name: 1 if name in self.codes else _FLOAT_BYTES for name in self.names}
        if len(record) != sum(sizes[name] * item_bytes[name] for name in self.names):
            item_bytes = dict.fromkeys(self.names, _FLOAT_BYTES)
            if len(record) != sum(sizes.values()) * _FLOAT_BYTES:
                return None
        arrays, offset = {}, 0
        for name in self.names:
            quantization = self.codes[name] if item_bytes[name] == 1 else None
            dtype = np.dtype("<f4") if quantization is None else np.dtype(quantization.dtype)
            stored = np.frombuffer(record, dtype, sizes[name], offset).reshape(shapes[name])
            arrays[name] = stored if quantization is None else _dequantized(stored, quantization)
            offset += sizes[name] * item_bytes[name]
        return arrays

    def _coded(self, name: str, values: FloatArray) -> npt.NDArray[np.generic] | None:
        """Return a tensor's codes, the tensor itself if it has none, or None where they would not give its bits."""
        quantization = self.codes.get(name)
        if quantization is None:
            return values
        limits = np.iinfo(quantization.dtype)
        # What is no number or too large becomes some code, and the comparison tells.
        with np.errstate(invalid="ignore", over="ignore"):
            codes = np.rint(values / np.float32(quantization.scale[0])) + quantization.zero_point[0]
            codes = np.clip(np.nan_to_num(codes), limits.min, limits.max).astype(quantization.dtype)
        return codes if _dequantized(codes, quantization).tobytes() == values.tobytes() else None


def record_form(table: NodeTable, names: Sequence[str]) -> RecordForm:
    """Return how records of a prefix are best stored.

    Args:
        table: of the prefix graph.
        names: of its boundary tensors, each an output of it.
    """
    producers = {output: node for node in table.nodes for output in node.outputs}
    codes = {}
    for name in names:
        node = producers.get(name)
        quantization = node.quantization if node and node.op == "DequantizeLinear" else None
        if quantization and _is_exact(quantization):
            codes[name] = quantization
    return RecordForm(names=tuple(names), codes=codes)


def _is_exact(quantization: Quantization) -> bool:
    """Say whether dequantizing only moves the binary point, so that no bit depends on how it is computed."""
    return (
        quantization.axis is None
        and len(quantization.scale) == len(quantization.zero_point) == 1
        and quantization.dtype in _CODE_DTYPES
        and math.frexp(quantization.scale[0])[0] == 0.5
    )


def _dequantized(codes: npt.NDArray[np.generic], quantization: Quantization) -> npt.NDArray[np.float32]:
    values = codes.astype(np.float32)
    values -= np.float32(quantization.zero_point[0])
    values *= np.float32(quantization.scale[0])
    return values
