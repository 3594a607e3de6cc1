"""theta: the whole adapter as one flat float32 vector, and where each PEFT tensor lies in it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]
Batch: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""What a graph is fed with: the name of an input → its array, samples first. Token ids and labels are int64,
pixel_values float32."""
RANK = "rank"
"""The name of the axis that is as long as an adapter's rank."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PackedWeight:
    """How a frozen weight is packed, as a matrix (rows, columns).

    Attributes:
        recipe: precision and its settings, as ``int4/64/asymmetric``.
        rows: one an output feature, or a token of an embedding.
        columns: of the matrix.
    """

    recipe: str
    rows: int
    columns: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BaseWeight:
    """A frozen weight that has to be read whenever an adapter is loaded.

    Attributes:
        name: of the tensor in graphs/weights.safetensors; of a packed one, whose parts are NAME.PART there, NAME.
        axes: a name for each of its axes.
        packed: how it is packed; None where it is float32.
    """

    name: str
    axes: tuple[str, ...]
    packed: PackedWeight | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ParameterSpec:
    """One trainable tensor, and how eval.onnx and infer.onnx are fed it.

    Attributes:
        key: its key in PEFT's ``adapter_model.safetensors``; also its input's name in eval.onnx and infer.onnx.
        module: the base module that it belongs to, as PEFT names it in ``target_modules`` (dotted path).
        axes: a name for each axis of ``shape``; ``rank`` where the adapter's rank is.
        shape: as PEFT stores it.
        offset: of its first element in theta, in elements.
        decay: whether weight decay applies; biases and norms are exempt.
        transposed: whether it is fed transposed; it has two axes then.
        scaled: whether the scale that the method gives its module is multiplied in where it is fed.
        optional: whether an adapter may come without it, if its settings say so.
        replaces: the checkpoint's name of the tensor of the base that it stands in for: of a saved head, of a bias;
            None for a tensor of the method's own.
        weight: what of the base its values are made with where it is fed; None where nothing is.
    """

    key: str
    module: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    offset: int
    decay: bool
    transposed: bool = False
    scaled: bool = False
    optional: bool = False
    replaces: str | None = None
    weight: BaseWeight | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def rank_axis(self) -> int | None:
        """Which axis of ``shape`` is the adapter's rank; None for a tensor without one."""
        return self.axes.index(RANK) if RANK in self.axes else None


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """The tensors of theta in the order of their offsets, without gaps."""

    parameters: tuple[ParameterSpec, ...]

    @property
    def size(self) -> int:
        """Elements of theta."""
        return sum(parameter.size for parameter in self.parameters)

    @property
    def rank(self) -> int:
        """The adapter's rank, the largest one of all tensors; 0 where none has one."""
        return max((p.shape[p.rank_axis] for p in self.parameters if p.rank_axis is not None), default=0)

    def views(self, theta: FloatArray) -> dict[str, FloatArray]:
        """Return each tensor as a view of theta (float32, shape ``(size,)``), by PEFT key: writing one writes theta."""
        if theta.shape != (self.size,):
            raise ValueError(f"theta has shape {theta.shape}; expected {(self.size,)}")
        return {p.key: theta[p.offset : p.offset + p.size].reshape(p.shape) for p in self.parameters}

    def pack(self, tensors: Mapping[str, npt.NDArray[np.floating]]) -> FloatArray:
        """Return theta, float32 of shape ``(size,)``, from one array per PEFT key.

        Raises:
            ValueError: if a key is missing or a shape is another.
        """
        theta = np.empty(self.size, np.float32)
        for p in self.parameters:
            if p.key not in tensors:
                raise ValueError(f"no tensor {p.key!r}")
            if tensors[p.key].shape != p.shape:
                raise ValueError(f"{p.key!r} has shape {tensors[p.key].shape}; expected {p.shape}")
            theta[p.offset : p.offset + p.size] = tensors[p.key].reshape(-1)
        return theta

    def decay_mask(self) -> npt.NDArray[np.bool_]:
        """Return, per element of theta, whether weight decay applies (bool, shape ``(size,)``)."""
        mask = np.zeros(self.size, np.bool_)
        for p in self.parameters:
            mask[p.offset : p.offset + p.size] = p.decay
        return mask
