"""Parity: stock ONNX Runtime computes what torch computes, or there is no bundle.

Compared at a perturbed adapter (at PEFT's default B = 0 every gradient of lora_A is zero, which proves nothing), with
padding and masked labels, against transformers' own loss and torch's autograd.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fieldtune.adapter_inputs import from_theta, inference_inputs
from fieldtune.adapters import Adapter
from fieldtune.errors import ParityError, listed
from fieldtune.layout import FloatArray
from fieldtune.manifest import Manifest, ParitySpec
from fieldtune_offline.lora import Adapted
from fieldtune_offline.tasks import Batch, Task

LOSS_TOLERANCE = 1e-5
"""Relative to the loss."""
GRADIENT_TOLERANCE = 1e-4
"""Relative to the largest element of the tensor's gradient."""
INFERENCE_TOLERANCE = 1e-4
"""Relative to the largest element of the output."""
_VANISHING = 1e-6
"""A gradient smaller than this part of the largest of all tensors' is zero by the model's own symmetry: a bias of the keys
shifts every attention score of a row alike, which softmax takes back out."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sessions:
    """The three graphs in stock ONNX Runtime."""

    gradient: Any
    evaluation: Any
    inference: Any


def open_sessions(folder: Path) -> Sessions:
    """Open gradient.onnx, eval.onnx and infer.onnx of a folder on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    gradient, evaluation, inference = (
        onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
        for name in ("gradient", "eval", "infer")
    )
    return Sessions(gradient, evaluation, inference)


def check_parity(
    sessions: Sessions,
    adapted: Adapted,
    task: Task,
    manifest: Manifest,
    initial: Adapter,
    shapes: Sequence[tuple[int, int]],
) -> tuple[ParitySpec, ...]:
    """Compare at each (batch, sequence), with the adapter prepared as the device prepares it.

    Args:
        sessions: of the graphs as written.
        adapted: the torch model.
        task: gives batches and torch's answers.
        manifest: of the bundle being built.
        initial: its adapter, as read back from its folder.
        shapes: to compare at.

    Raises:
        ParityError: a difference above its tolerance; every one is listed.
    """
    faults: list[str] = []
    records: list[ParitySpec] = []
    with _perturbed(adapted) as theta:
        adapter = inference_inputs(from_theta(theta, manifest, initial, manifest.task.labels, None), manifest)
        for number, (batch, sequence) in enumerate(shapes):
            where = f"batch {batch}, sequence {sequence}"
            feeds = task.batch(batch, sequence, number)
            loss, gradient, vanishing = _training(sessions, adapted, task, feeds, theta, adapter, where, faults)
            inference = 0.0
            for inputs in task.inference_batches(batch, sequence, number):
                inference = max(inference, _serving(sessions, task, inputs, adapter, where, faults))
            records.append(
                ParitySpec(
                    batch=batch,
                    sequence=sequence,
                    loss_relative=loss,
                    gradient_relative=gradient,
                    inference_relative=inference,
                    vanishing_gradients=vanishing,
                )
            )
    if faults:
        raise ParityError(f"the graphs do not compute what torch computes; nothing was written{listed(faults)}")
    return tuple(records)


@contextlib.contextmanager
def _perturbed(adapted: Adapted) -> Iterator[FloatArray]:
    """Move the adapter away from its initialization, by torch's generator with a fixed seed, and back afterwards."""
    tensors = dict(adapted.model.named_parameters())
    parameters = {key: tensors[name] for key, name in adapted.names.items()}
    before = {key: tensor.detach().clone() for key, tensor in parameters.items()}
    generator = torch.Generator().manual_seed(20)
    with torch.no_grad():
        for tensor in parameters.values():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.02)
    try:
        yield adapted.layout.pack({key: tensor.detach().numpy() for key, tensor in parameters.items()})
    finally:
        with torch.no_grad():
            for key, tensor in parameters.items():
                tensor.copy_(before[key])


def _training(
    sessions: Sessions,
    adapted: Adapted,
    task: Task,
    feeds: Batch,
    theta: FloatArray,
    adapter: Mapping[str, FloatArray],
    where: str,
    faults: list[str],
) -> tuple[float, float, tuple[str, ...]]:
    adapted.model.zero_grad(set_to_none=True)
    expected, weight = task.reference_loss(feeds)
    expected.backward()  # type: ignore[no-untyped-call]
    arrays = {name: tensor.numpy() for name, tensor in feeds.items()}
    loss_sum, found_weight, grad_sum = sessions.gradient.run(
        ["loss_sum", "weight", "grad_sum"], {**arrays, "theta": theta}
    )
    loss = _relative(loss_sum, expected.detach().numpy())
    if not loss <= LOSS_TOLERANCE:
        faults.append(f"{where}: loss_sum is {float(loss_sum)}; torch has {float(expected)}")
    if float(found_weight) != float(weight):
        faults.append(f"{where}: weight is {float(found_weight)}; {float(weight)} labels count")
    worst, vanishing = _gradients(adapted, grad_sum, where, faults)
    adapted.model.zero_grad(set_to_none=True)
    outputs = sessions.evaluation.run(["loss_sum", "weight"], {**arrays, **adapter})
    evaluated = _relative(outputs[0], expected.detach().numpy())
    if not evaluated <= LOSS_TOLERANCE or float(outputs[1]) != float(weight):
        faults.append(f"{where}: eval.onnx has loss_sum {float(outputs[0])}, weight {float(outputs[1])}")
    return max(loss, evaluated), worst, vanishing


def _gradients(
    adapted: Adapted, grad_sum: FloatArray, where: str, faults: list[str]
) -> tuple[float, tuple[str, ...]]:
    tensors = dict(adapted.model.named_parameters())
    expected: dict[str, FloatArray] = {}
    for key, name in adapted.names.items():
        gradient = tensors[name].grad
        expected[key] = np.zeros(tensors[name].shape, np.float32) if gradient is None else gradient.numpy()
    largest = max(float(np.abs(gradient).max()) for gradient in expected.values())
    worst = 0.0
    vanishing: list[str] = []
    for key, found in adapted.layout.views(grad_sum).items():
        size = float(np.abs(expected[key]).max())
        if size <= _VANISHING * largest:
            vanishing.append(key)
            size = largest
        elif not found.any():
            faults.append(f"{where}: the gradient of {key} is zero")
        difference = float(np.abs(found - expected[key]).max()) / size if size else 0.0
        worst = max(worst, difference)
        if not difference <= GRADIENT_TOLERANCE:
            faults.append(f"{where}: the gradient of {key} differs by {difference:.1e} of its largest element")
    if len(vanishing) == len(expected):
        faults.append(f"{where}: every gradient is zero")
    return worst, tuple(vanishing)


def _serving(
    sessions: Sessions, task: Task, feeds: Batch, adapter: Mapping[str, FloatArray], where: str, faults: list[str]
) -> float:
    with torch.no_grad():
        expected = task.inference_reference(feeds)
    arrays = {name: tensor.numpy() for name, tensor in feeds.items()}
    found = sessions.inference.run(list(expected), {**arrays, **adapter})
    worst = 0.0
    for name, array in zip(expected, found, strict=True):
        reference = expected[name].numpy()
        if name == "logits" and array.ndim == 3:
            # What a padding position would say next is nobody's business, and masks leave it undefined.
            visible = _visible(feeds)
            array, reference = array[visible], reference[visible]  # noqa: PLW2901
        difference = _relative(array, reference)
        worst = max(worst, difference)
        if not difference <= INFERENCE_TOLERANCE:
            faults.append(f"{where}: infer.onnx's {name} differs by {difference:.1e} of its largest element")
    return worst


def _visible(feeds: Mapping[str, torch.Tensor]) -> npt.NDArray[np.bool_]:
    length = feeds["input_ids"].shape[1]
    return np.asarray(feeds["attention_mask"][:, -length:].numpy() != 0)


def _relative(found: npt.ArrayLike, expected: npt.ArrayLike) -> float:
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        return float("inf")
    size = float(np.abs(expected).max()) if expected.size else 0.0
    return float(np.abs(found - expected).max()) / (size or 1.0) if expected.size else 0.0
