"""theta: the whole adapter as one flat float32 vector, and where each PEFT tensor lies in it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]
Role = Literal["lora_a", "lora_b", "lora_embedding_a", "lora_embedding_b", "saved", "bias"]
ROLES: tuple[Role, ...] = ("lora_a", "lora_b", "lora_embedding_a", "lora_embedding_b", "saved", "bias")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ParameterSpec:
    """One trainable tensor.

    Attributes:
        key: its key in PEFT's ``adapter_model.safetensors``; also its input's name in eval.onnx and infer.onnx.
        role: which part of the adapter it is.
        module: the base module that it belongs to, as PEFT names it in ``target_modules`` (dotted path).
        shape: as PEFT stores it; LoRA's A is (rank, in_features), B is (out_features, rank).
        offset: of its first element in theta, in elements.
        decay: whether weight decay applies; biases and norms are exempt.
    """

    key: str
    role: Role
    module: str
    shape: tuple[int, ...]
    offset: int
    decay: bool

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def rank_axis(self) -> int | None:
        """Which axis of ``shape`` is LoRA's rank; None for a tensor without one."""
        if self.role in ("lora_a", "lora_embedding_a"):
            return 0
        return 1 if self.role in ("lora_b", "lora_embedding_b") else None

    @property
    def is_matrix(self) -> bool:
        """Whether it is an A or B with two axes, which eval.onnx and infer.onnx take transposed."""
        return self.rank_axis is not None and len(self.shape) == 2


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
        """LoRA's rank, the largest one of all tensors; 0 where none has one."""
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
