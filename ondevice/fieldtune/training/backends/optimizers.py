"""AdamW and SGD on theta: a few in-place NumPy lines with torch.optim's definitions, and the clipping before them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from fieldtune.bundle import FloatArray
from fieldtune.errors import CheckpointError, listed

MaskArray: TypeAlias = npt.NDArray[np.bool_]
State: TypeAlias = dict[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AdamWConfig:
    """Settings of AdamW, with torch.optim.AdamW's defaults.

    Attributes:
        beta1: decay of the mean of the gradient.
        beta2: decay of the mean of its square.
        eps: added to the root of the corrected mean square.
        weight_decay: decoupled: a step scales theta by 1 - learning_rate · weight_decay.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value}; expected at least 0 and below 1")
        _check_not_negative(self, "eps", "weight_decay")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SGDConfig:
    """Settings of SGD, as torch.optim.SGD names them.

    Attributes:
        momentum: how much of the last update stays.
        nesterov: whether to look one step ahead.
        weight_decay: coupled: the gradient grows by weight_decay · theta.
    """

    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_not_negative(self, "momentum", "weight_decay")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")


OptimizerConfig: TypeAlias = AdamWConfig | SGDConfig


class Optimizer(Protocol):
    """What the training loop asks of an optimizer."""

    def step(self, theta: FloatArray, gradient: FloatArray, learning_rate: float) -> None:
        """Update theta in place (float32, shape ``(size,)``); the gradient stays as it is."""

    def state(self) -> State:
        """Return copies of all that a continued run needs, for a checkpoint."""

    def load_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over what ``state`` returned.

        Raises:
            CheckpointError: if arrays are missing, unknown or of another shape or dtype; every fault is listed.
        """


def new_optimizer(config: OptimizerConfig, decay_mask: MaskArray) -> Optimizer:
    """Return the optimizer that a config describes.

    Args:
        config: its settings.
        decay_mask: bool, shape ``(size,)``: where weight decay applies.
    """
    return AdamW(config, decay_mask) if isinstance(config, AdamWConfig) else SGD(config, decay_mask)


class AdamW:
    """AdamW (Loshchilov & Hutter 2019, algorithm 2, with the constant factors of torch.optim.AdamW).

    With m and v the decaying means of the gradient and of its square, and t the number of the step from 1::

        theta ← theta · (1 - learning_rate · weight_decay)      where decay_mask
        theta ← theta - learning_rate / (1 - beta1^t) · m / (√v / √(1 - beta2^t) + eps)

    Args:
        config: the settings.
        decay_mask: bool, shape ``(size,)``: where weight decay applies.
    """

    def __init__(self, config: AdamWConfig, decay_mask: MaskArray) -> None:
        self._config = config
        self._decay_mask = decay_mask.copy()
        self._steps = 0
        self._mean = np.zeros(decay_mask.shape, np.float32)
        self._mean_square = np.zeros(decay_mask.shape, np.float32)
        self._scratch = np.empty(decay_mask.shape, np.float32)

    def step(self, theta: FloatArray, gradient: FloatArray, learning_rate: float) -> None:
        """Update theta in place (float32, shape ``(size,)``); the gradient stays as it is."""
        _check_vectors(theta, gradient, self._decay_mask.shape)
        config, scratch = self._config, self._scratch
        # Scalars stay Python floats: NumPy computes with them in the arrays' float32, in version 1 as in version 2.
        rate = float(learning_rate)
        self._steps += 1
        correction1 = 1.0 - config.beta1**self._steps
        correction2 = 1.0 - config.beta2**self._steps

        np.multiply(theta, 1.0 - rate * config.weight_decay, out=theta, where=self._decay_mask)
        np.subtract(gradient, self._mean, out=scratch)
        scratch *= 1.0 - config.beta1
        self._mean += scratch
        np.multiply(gradient, gradient, out=scratch)
        scratch *= 1.0 - config.beta2
        self._mean_square *= config.beta2
        self._mean_square += scratch

        np.sqrt(self._mean_square, out=scratch)
        scratch /= math.sqrt(correction2)
        scratch += config.eps
        np.divide(self._mean, scratch, out=scratch)
        scratch *= rate / correction1
        theta -= scratch

    def state(self) -> State:
        """Return copies of both means (float32, shape ``(size,)``) and the count of steps (int64, 0-d)."""
        return {
            "step": np.array(self._steps, np.int64),
            "mean": self._mean.copy(),
            "mean_square": self._mean_square.copy(),
        }

    def load_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over what ``state`` returned.

        Raises:
            CheckpointError: if arrays are missing, unknown or of another shape or dtype; every fault is listed.
        """
        check_adamw_state(state, self._mean.size)
        self._steps = int(state["step"])
        np.copyto(self._mean, state["mean"])
        np.copyto(self._mean_square, state["mean_square"])


class SGD:
    """SGD with momentum (Sutskever et al. 2013 with the learning rate outside the buffer, as in torch.optim.SGD).

    With g the gradient plus weight_decay · theta where decay_mask::

        buffer ← momentum · buffer + g
        theta  ← theta - learning_rate · buffer                       or, with nesterov,
        theta  ← theta - learning_rate · (g + momentum · buffer)

    The buffer starts at zero, which makes it g after the first step.

    Args:
        config: the settings.
        decay_mask: bool, shape ``(size,)``: where weight decay applies.
    """

    def __init__(self, config: SGDConfig, decay_mask: MaskArray) -> None:
        self._config = config
        self._decay = decay_mask.astype(np.float32) * np.float32(config.weight_decay)
        self._momentum = np.zeros(decay_mask.shape, np.float32)
        self._gradient = np.empty(decay_mask.shape, np.float32)
        self._update = np.empty(decay_mask.shape, np.float32)

    def step(self, theta: FloatArray, gradient: FloatArray, learning_rate: float) -> None:
        """Update theta in place (float32, shape ``(size,)``); the gradient stays as it is."""
        _check_vectors(theta, gradient, self._decay.shape)
        momentum = self._config.momentum
        np.multiply(theta, self._decay, out=self._gradient)
        self._gradient += gradient
        self._momentum *= momentum
        self._momentum += self._gradient
        if self._config.nesterov:
            np.multiply(self._momentum, momentum, out=self._update)
            self._update += self._gradient
            self._update *= float(learning_rate)
        else:
            np.multiply(self._momentum, float(learning_rate), out=self._update)
        theta -= self._update

    def state(self) -> State:
        """Return a copy of the momentum buffer (float32, shape ``(size,)``)."""
        return {"momentum": self._momentum.copy()}

    def load_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over what ``state`` returned.

        Raises:
            CheckpointError: if arrays are missing, unknown or of another shape or dtype; every fault is listed.
        """
        _check_state(state, self.state(), "SGD")
        np.copyto(self._momentum, state["momentum"])


def check_adamw_state(state: Mapping[str, npt.NDArray[Any]], size: int) -> None:
    """Check that arrays are what ``AdamW.state`` returns for an adapter of a size.

    Raises:
        CheckpointError: if arrays are missing, unknown or of another shape or dtype; every fault is listed.
    """
    vector = np.empty(size, np.float32)
    _check_state(state, {"step": np.array(0, np.int64), "mean": vector, "mean_square": vector}, "AdamW")


def clip_gradient(gradient: FloatArray, max_norm: float) -> float:
    """Scale a gradient in place so that its Euclidean norm is at most max_norm; return the norm it had.

    As torch.nn.utils.clip_grad_norm_: the factor is max_norm / (norm + 1e-6), at most 1. A gradient whose norm is not a
    number or infinite stays as it is: the caller sees the norm and decides.

    Args:
        gradient: float32, shape ``(size,)``.
        max_norm: above 0.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm is {max_norm}; expected a number above 0")
    # einsum with a dtype converts small buffers, not the whole vector; in float64 no finite gradient overflows.
    norm = math.sqrt(float(np.einsum("i,i->", gradient, gradient, dtype=np.float64)))
    factor = max_norm / (norm + 1e-6)
    if math.isfinite(norm) and factor < 1:
        np.multiply(gradient, factor, out=gradient)
    return norm


def _check_not_negative(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} is {value}; expected a number of at least 0")


def _check_vectors(theta: FloatArray, gradient: FloatArray, shape: tuple[int, ...]) -> None:
    for name, vector in (("theta", theta), ("the gradient", gradient)):
        if vector.shape != shape or vector.dtype != np.float32:
            raise ValueError(f"{name} is {vector.dtype} {vector.shape}; expected float32 {shape}")


def _check_state(stored: Mapping[str, npt.NDArray[Any]], expected: State, optimizer: str) -> None:
    faults = [f"{name}: missing" for name in expected if name not in stored]
    faults += [f"{name}: unknown to {optimizer}" for name in stored if name not in expected]
    faults += [
        f"{name}: {stored[name].dtype} {stored[name].shape}; expected {array.dtype} {array.shape}"
        for name, array in expected.items()
        if name in stored and (stored[name].shape != array.shape or stored[name].dtype != array.dtype)
    ]
    if faults:
        raise CheckpointError(
            f"this is not the state of {optimizer} for this adapter; continue with the optimizer and the bundle that "
            f"the checkpoint was written with{listed(faults)}"
        )
