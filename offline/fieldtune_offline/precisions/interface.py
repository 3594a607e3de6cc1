"""A precision of the frozen base: how a matrix is packed, and what is computed from the packed form.

A matrix has the shape (rows, columns): one row an output feature, as Hugging Face stores it, or one row a token.
"""

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch

from fieldtune_offline.lowering.builder import Tensor
from fieldtune_offline.lowering.call import Call

Parts = Sequence[torch.Tensor]
"""The tensors of one packed matrix, in the order of ``Precision.part_names``."""
_AT_ONCE = 2**22
"""Values that torch unpacks at once: 16 MiB, which malloc takes from what it has, and not from the system."""


@dataclasses.dataclass(frozen=True, slots=True)
class PackedInputs:
    """The tensors of one packed matrix in a graph under construction.

    Attributes:
        parts: in the order of ``Precision.part_names``.
        rows: of the matrix.
        columns: of the matrix.
    """

    parts: Sequence[Tensor]
    rows: int
    columns: int


class Precision(abc.ABC):
    """One precision with its settings.

    Products are with the unpacked matrix, unless a precision computes them in integers: it has ``integer`` set then and
    ``product``, ``input_gradient`` and their lowerings of its own, which are held to each other one product at a time.
    The graph as a whole is held to torch with the unpacked matrices: integers are rounded to, and a number that lies
    between two of them goes either way, so that two runs that differ in nothing else drift apart.

    Attributes:
        name: as ``--base`` has it.
        part_names: of the tensors that it packs a matrix into; buffers of the packed module have these names.
        integer: whether products are of integers.
    """

    name: ClassVar[str]
    part_names: tuple[str, ...]
    integer: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def recipe(self) -> str:
        """Name and settings in one string, from which ``precision_of`` makes the same precision again."""

    def refusal(self, rows: int, columns: int) -> str | None:
        """Return why a matrix of this shape cannot be packed, or None."""
        del rows, columns
        return None

    @abc.abstractmethod
    def pack(self, matrix: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Pack a float32 matrix (rows, columns) into the tensors that ``part_names`` names."""

    @abc.abstractmethod
    def unpack(self, parts: Parts, rows: int, columns: int) -> torch.Tensor:
        """Return the float32 matrix (rows, columns) that packed tensors stand for."""

    def cut(self, parts: Parts, rows: slice, columns: int) -> Parts:
        """Return the packed tensors of some rows of a matrix, from a multiple of 64 to one, or to the end."""
        del columns
        return tuple(part[rows] for part in parts)

    def product(self, x: torch.Tensor, parts: Parts, rows: int) -> torch.Tensor:
        """Return x (…, columns) times the transposed matrix: (…, rows), as the graphs compute it."""
        columns = x.shape[-1]
        products = [x @ matrix.T for _, matrix in self._unpacked(parts, rows, columns)]
        return products[0] if len(products) == 1 else torch.cat(products, -1)

    def input_gradient(self, gradient: torch.Tensor, parts: Parts, columns: int) -> torch.Tensor:
        """Return a gradient (…, rows) times the matrix: (…, columns), as the graphs compute it."""
        result = gradient.new_zeros(*gradient.shape[:-1], columns)
        for some, matrix in self._unpacked(parts, gradient.shape[-1], columns):
            result += gradient[..., some] @ matrix
        return result

    def _unpacked(self, parts: Parts, rows: int, columns: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield the matrix in runs of rows, which are less to hold, and sooner there, than all of it."""
        run = max(1, _AT_ONCE // columns // 64) * 64
        for first in range(0, rows, run):
            some = slice(first, min(first + run, rows))
            yield some, self.unpack(self.cut(parts, some, columns), some.stop - some.start, columns)

    @abc.abstractmethod
    def lower_matrix(self, call: Call, packed: PackedInputs) -> Tensor:
        """Emit the unpacked matrix, float32."""

    def lower_product(self, call: Call, x: Tensor, packed: PackedInputs) -> Tensor:
        """Emit ``product`` for x of the shape (n, columns); the result has the shape (n, rows)."""
        matrix = self.lower_matrix(call, packed)
        return call.build.op("Gemm", [x, matrix], x.dtype, (x.dims[0], packed.rows), transA=0, transB=1)

    def lower_served(self, call: Call, x: Tensor, packed: PackedInputs) -> Tensor:
        """Emit ``product`` where the parts are constants, which ONNX Runtime may put in an order of its own once.

        The graphs that serve are opened for many small products: one token at a time.
        """
        return self.lower_product(call, x, packed)

    def lower_input_gradient(self, call: Call, gradient: Tensor, packed: PackedInputs) -> Tensor:
        """Emit ``input_gradient`` for a gradient of the shape (n, rows); the result has the shape (n, columns)."""
        matrix, dims = self.lower_matrix(call, packed), (gradient.dims[0], packed.columns)
        return call.build.op("Gemm", [gradient, matrix], gradient.dtype, dims, transA=0, transB=0)
