"""The official backend: ONNX Runtime's own training API on the artifacts of ``ort_training/``."""

import contextlib
import dataclasses
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fieldtune.bundle import Batch, Bundle, FloatArray
from fieldtune.errors import InvalidBundle, OutputError
from fieldtune.runtime import ProviderChoice, error_line, run_error, runtime_errors, session_options
from fieldtune.training.backends.interface import Sums
from fieldtune.training.backends.optimizers import AdamWConfig, State, check_adamw_state, clip_gradient
from fieldtune.training.backends.ort_checkpoint import read_adamw, replace_adamw
from fieldtune.training.backends.training_api import import_training
from fieldtune.training.evaluation import Evaluated, other_outputs

_ARTIFACTS_ADAMW = AdamWConfig()


class OrtTrainingBackend:
    """A TrainingBackend by ``Module`` and ``Optimizer`` of ``onnxruntime.training.api``.

    The training model returns the mean loss of a batch and the gradient of that mean, and its optimizer AdamW without
    weight decay. What the portable backend does with sums is made of that: the gradient of each microbatch is taken
    out, weighted by its labels and summed here; the mean is clipped here and put back for the optimizer's step; weight
    decay comes before the step, on those tensors that decay. So both backends take the same steps.

    Args:
        bundle: with the official artifacts.
        choice: its session settings; the API runs on the CPU.
        theta: where to start, float32, shape ``(size,)``.
        optimizer: with the betas and the epsilon of the artifacts, which are AdamWConfig's defaults.
        max_grad_norm: what the mean gradient is clipped to; 0 for no clipping.

    Raises:
        InvalidBundle: if the training API cannot load the artifacts, or the bundle has none.
        ProviderUnavailable: if there is no ONNX Runtime.
    """

    name = "ort-training"
    placement = None

    def __init__(
        self,
        bundle: Bundle,
        choice: ProviderChoice,
        theta: FloatArray,
        optimizer: AdamWConfig,
        max_grad_norm: float,
    ) -> None:
        artifacts = bundle.manifest.ort_training
        if artifacts is None:
            raise InvalidBundle(
                f"{bundle.root}: no official training artifacts; fieldtune-offline export-ort adds them"
            )
        if dataclasses.replace(optimizer, weight_decay=_ARTIFACTS_ADAMW.weight_decay) != _ARTIFACTS_ADAMW:
            raise ValueError(f"betas or eps of {optimizer} are not those of the artifacts, {_ARTIFACTS_ADAMW}")
        self._root, self._artifacts = bundle.root, artifacts
        self._layout, self._others = bundle.manifest.layout, other_outputs(bundle.manifest)
        # Parameters reach the graphs as inputs there, which cannot be packed; the API refuses sessions that would.
        self._settings = dataclasses.replace(choice.session_settings, prepacking=False)
        self._weight_decay = optimizer.weight_decay
        self._max_norm = max_grad_norm or math.inf
        self._gradient = np.zeros_like(theta)
        self._weight = 0.0
        self._open(bundle.root / artifacts.checkpoint)
        self.load_theta(theta)

    def accumulate(self, batch: Batch, weight: float) -> Sums:
        """Run one microbatch and add its summed gradient and weight to what is held."""
        self._module.train()
        loss, *_ = self._run(batch)
        if weight:  # the mean of no label is no number
            for key, summed in self._layout.views(self._gradient).items():
                np.add(summed, self._state.parameters[key].grad * np.float32(weight), out=summed)
        self._module.lazy_reset_grad()
        self._weight += weight
        return Sums(float(loss) * weight if weight else 0.0, weight)

    def update(self, learning_rate: float) -> float:
        """Divide by the weight, clip, take one optimizer step; return the gradient's norm before clipping."""
        if not self._weight:
            raise ValueError("no label has been accumulated; there is nothing to divide by")
        self._gradient /= self._weight
        norm = clip_gradient(self._gradient, self._max_norm)
        if math.isfinite(norm):
            keep = 1.0 - learning_rate * self._weight_decay
            gradients = self._layout.views(self._gradient)
            for parameter in self._layout.parameters:
                held = self._state.parameters[parameter.key]
                held.grad[...] = gradients[parameter.key]  # a view of the runtime's own buffer
                if parameter.decay and keep != 1.0:
                    held.data = held.data * np.float32(keep)
            self._optimizer.set_learning_rate(learning_rate)
            self._optimizer.step()
        self._drop()
        return norm

    def evaluate(self, batch: Batch, weight: float) -> Evaluated:
        """Return the summed loss, and what figures are counted from, of the adapter as it is now."""
        self._module.eval()
        loss, *values = self._run(batch)
        return Evaluated(float(loss) * weight if weight else 0.0, weight, dict(zip(self._others, values, strict=True)))

    def theta(self) -> FloatArray:
        """Return a copy of the adapter, float32, shape ``(size,)``."""
        return self._layout.pack({p.key: self._state.parameters[p.key].data for p in self._layout.parameters})

    def load_theta(self, theta: FloatArray) -> None:
        """Take over an adapter, and drop what is held."""
        for key, values in self._layout.views(theta).items():
            self._state.parameters[key] = np.ascontiguousarray(values)
        self._drop()

    def state(self) -> State:
        """Return copies of AdamW's means and of its count of steps, as the portable backend's AdamW has them.

        The training API shows them in a checkpoint file only, so one is written: as large as the base's weights.

        Raises:
            OutputError: the folder of temporary files cannot take it.
        """
        with self._saved() as path:
            return read_adamw(path, self._layout)

    def load_state(self, state: State) -> None:
        """Take over what ``state`` returned, here or in the portable backend with AdamW; drop what is held.

        Raises:
            CheckpointError: if it is not AdamW's for this adapter; every fault is listed.
            OutputError: the folder of temporary files cannot take a checkpoint.
        """
        check_adamw_state(state, self._layout.size)
        with self._saved() as path:
            replace_adamw(path, self._layout, state)
            self._open(path)
        self._drop()

    def _open(self, checkpoint: Path) -> None:
        api = import_training("api")
        options = session_options(self._settings)
        try:
            self._state = api.CheckpointState.load_checkpoint(str(checkpoint))
            self._module = api.Module(
                str(self._root / self._artifacts.training_model),
                self._state,
                str(self._root / self._artifacts.eval_model),
                session_options=options,
            )
            self._optimizer = api.Optimizer(str(self._root / self._artifacts.optimizer_model), self._module)
        except _errors() as error:
            raise InvalidBundle(
                f"{self._root}: ONNX Runtime's training API cannot load {Path(self._artifacts.training_model).parent}: "
                f"{error_line(error)}; copy the bundle again or run fieldtune-offline export-ort"
            ) from error
        self._inputs = self._module.input_names()

    def _run(self, batch: Batch) -> tuple[npt.NDArray[Any], ...]:
        try:
            outputs: tuple[npt.NDArray[Any], ...] = self._module(*(batch[name] for name in self._inputs))
        except _errors(MemoryError) as error:
            graph = self._artifacts.training_model if self._module.training else self._artifacts.eval_model
            raise run_error(error, graph, batch) from error
        return outputs

    @contextlib.contextmanager
    def _saved(self) -> Iterator[Path]:
        api = import_training("api")
        with tempfile.TemporaryDirectory(prefix="fieldtune-") as folder:
            path = Path(folder) / "checkpoint"
            try:
                api.CheckpointState.save_checkpoint(self._state, str(path), include_optimizer_state=True)
                yield path
            except _errors(OSError) as error:
                raise OutputError(
                    f"{tempfile.gettempdir()}: a checkpoint cannot be written there ({error_line(error)}); free some "
                    "space or set TMPDIR to another folder"
                ) from error

    def _drop(self) -> None:
        self._gradient.fill(0)
        self._weight = 0.0


def _errors(*also: type[Exception]) -> tuple[type[Exception], ...]:
    return (*runtime_errors(), RuntimeError, *also)
