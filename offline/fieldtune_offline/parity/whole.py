"""Parity: stock ONNX Runtime computes what torch computes, or there is no bundle.

Compared at a perturbed adapter (at LoRA's default B = 0 every gradient of A is zero, which proves nothing), with
padding and masked labels, against transformers' own loss and torch's autograd.
"""

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fieldtune.adapters import Adapter, from_theta, inference_inputs
from fieldtune.bundle import Bundle, FloatArray, ParitySpec
from fieldtune.errors import ParityError, listed
from fieldtune_offline.adapted import Adapted
from fieldtune_offline.methods.table import method_named
from fieldtune_offline.tasks.interface import GRADIENT, Batch, Task

LOSS_TOLERANCE = 1e-5
"""Relative to the loss."""
GRADIENT_TOLERANCE = 1e-4
"""Relative to the largest element of the tensor's gradient."""
INFERENCE_TOLERANCE = 1e-4
"""Relative to the largest element of the output."""
_VANISHING = 1e-6
"""A gradient smaller than this part of the largest of all tensors' is zero by the model's own symmetry: a bias of the
keys shifts every attention score of a row alike, which softmax takes back out."""


class Sessions:
    """The graphs of a folder in stock ONNX Runtime on the CPU, each opened when it is first run.

    Args:
        folder: where they lie.
        in_order: names of those whose nodes run in the order of the file.
        lean: whether one at a time is open, with its weights in memory once at most; slower.
    """

    def __init__(self, folder: Path, in_order: Collection[str] = (), *, lean: bool = False) -> None:
        self._folder, self._in_order, self._lean = folder, frozenset(in_order), lean
        self._open: dict[str, Any] = {}

    def run(self, graph: str, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]) -> list[Any]:
        """Return outputs of a graph."""
        if graph not in self._open:
            if self._lean:
                self._open.clear()
            path = self._folder / f"{graph}.onnx"
            self._open[graph] = open_on_cpu(path, lean=self._lean, in_order=graph in self._in_order)
        values: list[Any] = self._open[graph].run(list(outputs), feeds)
        return values


@dataclasses.dataclass(frozen=True, slots=True)
class GradientComparison:
    """How far gradients are from expected ones.

    Attributes:
        worst: largest difference of a tensor, relative to its largest expected element.
        vanishing: tensors whose gradient is zero by the model's own symmetry.
        faults: what is out of tolerance, in words.
    """

    worst: float
    vanishing: tuple[str, ...]
    faults: tuple[str, ...]


def open_on_cpu(path: Path, *, lean: bool = False, in_order: bool = False) -> Any:
    """Open one graph on the CPU, with ONNX Runtime's warnings off.

    Args:
        path: of the graph.
        lean: whether weights are in memory once, and those that are mapped not at all; slower.
        in_order: whether nodes run in the order of the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if in_order:
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    if not lean:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.disable_prepacking", "1")
    # What is computed from weights alone would be kept beside them.
    return onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
    )


def run_named(session: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Run a graph with those arrays that it takes; return all outputs by name."""
    wanted = {value.name for value in session.get_inputs()}
    wanted |= {value.name for value in session.get_overridable_initializers()}
    outputs = [value.name for value in session.get_outputs()]
    feeds = {name: array for name, array in arrays.items() if name in wanted}
    return dict(zip(outputs, session.run(outputs, feeds), strict=True))


def compare_gradients(
    gradients: Mapping[str, FloatArray], expected: Mapping[str, FloatArray], tolerance: float
) -> GradientComparison:
    """Compare the gradients of each tensor; every one that does not vanish must be there."""
    largest = max(float(np.abs(gradient).max()) for gradient in expected.values())
    worst = 0.0
    vanishing: list[str] = []
    faults: list[str] = []
    for key, gradient in gradients.items():
        size = float(np.abs(expected[key]).max())
        if size <= _VANISHING * largest:
            vanishing.append(key)
            size = largest
        elif not gradient.any():
            faults.append(f"the gradient of {key} is zero")
        difference = float(np.abs(gradient - expected[key]).max()) / size if size else 0.0
        worst = max(worst, difference)
        if not difference <= tolerance:
            faults.append(f"the gradient of {key} differs by {difference:.1e} of its largest element")
    if len(vanishing) == len(expected):
        faults.append("every gradient is zero")
    return GradientComparison(worst, tuple(vanishing), tuple(faults))


def check_parity(
    sessions: Sessions,
    adapted: Adapted,
    task: Task,
    bundle: Bundle,
    initial: Adapter,
    shapes: Sequence[tuple[int, int]],
) -> tuple[ParitySpec, ...]:
    """Compare at each (batch, sequence), with the adapter prepared as the device prepares it.

    Args:
        sessions: of the graphs as written.
        adapted: the torch model.
        task: gives batches and torch's answers.
        bundle: what is being built, as far as it is written.
        initial: its adapter, as read back from its folder.
        shapes: to compare at.

    Raises:
        ParityError: a difference above its tolerance; every one is listed.
    """
    faults: list[str] = []
    records: list[ParitySpec] = []
    with perturbed(adapted) as theta:
        adapter = moved_inputs(theta, initial, bundle)
        for seed, (batch, sequence) in enumerate(shapes):
            where = f"batch {batch}, sequence {sequence}"
            comparison = _Comparison(sessions, adapted, task, theta, adapter, where, faults)
            feeds = task.batch(batch, sequence, seed)
            loss, gradient, vanishing = comparison.training(feeds)
            evaluation = comparison.evaluation(feeds)
            served = [comparison.serving(inputs) for inputs in task.inference_batches(batch, sequence, seed)]
            records.append(
                ParitySpec(
                    batch=batch,
                    sequence=sequence,
                    loss_relative=max(loss, evaluation),
                    gradient_relative=gradient,
                    inference_relative=max(served),
                    vanishing_gradients=vanishing,
                )
            )
    if faults:
        raise ParityError(f"the graphs do not compute what torch computes; nothing was written{listed(faults)}")
    return tuple(records)


@contextlib.contextmanager
def perturbed(adapted: Adapted) -> Iterator[FloatArray]:
    """Move the adapter away from its initialization, by torch's generator with a fixed seed, and back afterwards.

    For as long as that lasts, the model answers with a packed base, too.
    """
    tensors = dict(adapted.model.named_parameters())
    parameters = {key: tensors[name] for key, name in adapted.names.items()}
    before = {key: tensor.detach().clone() for key, tensor in parameters.items()}
    generator = torch.Generator().manual_seed(20)
    with torch.no_grad():
        for tensor in parameters.values():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.02)
    try:
        with method_named(adapted.method).reference(adapted.model):
            yield adapted.layout.pack({key: tensor.detach().numpy() for key, tensor in parameters.items()})
    finally:
        with torch.no_grad():
            for key, tensor in parameters.items():
                tensor.copy_(before[key])


def moved_inputs(theta: FloatArray, initial: Adapter, bundle: Bundle) -> Mapping[str, FloatArray]:
    """Return what feeds the adapter's inputs of the forward graphs, as a device prepares it, where theta has moved.

    Args:
        theta: the adapter as the training graph takes it.
        initial: the bundle's adapter, as read back from its folder.
        bundle: what is being built, as far as it is written.
    """
    return inference_inputs(from_theta(theta, bundle.manifest, initial, bundle.manifest.task.labels, None), bundle)


def arrays_of(batch: Batch) -> dict[str, npt.NDArray[Any]]:
    """Return a batch as ONNX Runtime takes it."""
    return {name: tensor.numpy() for name, tensor in batch.items()}


def torch_gradients(adapted: Adapted) -> dict[str, FloatArray]:
    """Return the gradients that torch has computed, by PEFT key; zeros where nothing reached a tensor."""
    tensors = dict(adapted.model.named_parameters())
    gradients: dict[str, FloatArray] = {}
    for key, name in adapted.names.items():
        gradient = tensors[name].grad
        gradients[key] = np.zeros(tensors[name].shape, np.float32) if gradient is None else gradient.numpy()
    return gradients


@dataclasses.dataclass(frozen=True, slots=True)
class _Comparison:
    """The comparisons at one shape; faults are added to the list they share."""

    sessions: Sessions
    adapted: Adapted
    task: Task
    theta: FloatArray
    adapter: Mapping[str, FloatArray]
    where: str
    faults: list[str]

    def _fault(self, what: str) -> None:
        self.faults.append(f"{self.where}: {what}")

    def training(self, feeds: Batch) -> tuple[float, float, tuple[str, ...]]:
        """Compare gradient.onnx with autograd: differences of loss and gradients, and which gradients vanish."""
        model = self.adapted.model
        model.zero_grad(set_to_none=True)
        expected, weight = self.task.reference_loss(feeds)
        expected.backward()  # type: ignore[no-untyped-call]
        arrays = arrays_of(feeds)
        names = ["loss_sum", "weight", "grad_sum"]
        loss_sum, weight_sum, grad_sum = self.sessions.run(GRADIENT, names, {**arrays, "theta": self.theta})
        loss = self._loss("gradient.onnx", loss_sum, weight_sum, float(expected.detach()), float(weight))
        gradient, vanishing = self._gradients(grad_sum)
        model.zero_grad(set_to_none=True)
        return loss, gradient, vanishing

    def evaluation(self, feeds: Batch) -> float:
        """Compare eval.onnx's loss."""
        with torch.no_grad():
            expected, weight = self.task.reference_loss(feeds)
        arrays = arrays_of(feeds)
        loss_sum, weight_sum = self.sessions.run("eval", ["loss_sum", "weight"], {**arrays, **self.adapter})
        return self._loss("eval.onnx", loss_sum, weight_sum, float(expected), float(weight))

    def serving(self, feeds: Batch) -> float:
        """Compare infer.onnx's outputs."""
        with torch.no_grad():
            expected = self.task.inference_reference(feeds)
        arrays = arrays_of(feeds)
        outputs = self.sessions.run("infer", list(expected), {**arrays, **self.adapter})
        worst = 0.0
        for name, output in zip(expected, outputs, strict=True):
            # What a padding position would say next is nobody's business, and masks leave it undefined.
            seen = _visible(feeds) if name == "logits" and output.ndim == 3 else ...
            difference = relative_difference(output[seen], expected[name].numpy()[seen])
            worst = max(worst, difference)
            if not difference <= INFERENCE_TOLERANCE:
                self._fault(f"infer.onnx's {name} differs by {difference:.1e} of its largest element")
        return worst

    def _loss(self, graph: str, loss_sum: FloatArray, weight: FloatArray, expected: float, labels: float) -> float:
        difference = relative_difference(loss_sum, expected)
        if not difference <= LOSS_TOLERANCE:
            self._fault(f"{graph}'s loss_sum is {loss_sum}; torch has {expected}")
        if float(np.asarray(weight)) != labels:
            self._fault(f"{graph}'s weight is {weight}; {labels:.0f} labels count")
        return difference

    def _gradients(self, grad_sum: FloatArray) -> tuple[float, tuple[str, ...]]:
        gradients = self.adapted.layout.views(grad_sum)
        comparison = compare_gradients(gradients, torch_gradients(self.adapted), GRADIENT_TOLERANCE)
        for fault in comparison.faults:
            self._fault(fault)
        return comparison.worst, comparison.vanishing


def _visible(feeds: Mapping[str, torch.Tensor]) -> npt.NDArray[np.bool_]:
    length = feeds["input_ids"].shape[1]
    return np.asarray(feeds["attention_mask"][:, -length:].numpy() != 0)


def relative_difference(values: npt.ArrayLike, expected: npt.ArrayLike) -> float:
    """Return the largest difference, relative to the largest expected element; infinite where shapes differ."""
    values, expected = np.asarray(values, np.float64), np.asarray(expected, np.float64)
    if values.shape != expected.shape:
        return float("inf")
    size = float(np.abs(expected).max()) if expected.size else 0.0
    return float(np.abs(values - expected).max()) / (size or 1.0) if expected.size else 0.0
