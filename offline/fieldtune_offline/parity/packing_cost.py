"""What packing the base costs: loss, gradients and outputs of the packed torch model beside those in float32."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from fieldtune.bundle import FloatArray, PackingCost
from fieldtune_offline.adapted import Adapted
from fieldtune_offline.parity.whole import perturbed, torch_gradients
from fieldtune_offline.progress import Count
from fieldtune_offline.tasks.interface import Task


@dataclasses.dataclass(frozen=True, slots=True)
class Answers:
    """What torch computes at one shape.

    Attributes:
        loss: a label.
        gradient: of the adapter, as theta lies.
        outputs: of what is served first, flattened, one after another.
    """

    loss: float
    gradient: FloatArray
    outputs: FloatArray


def torch_answers(
    adapted: Adapted, task: Task, shapes: Sequence[tuple[int, int]], count: Count = lambda *_: None
) -> list[Answers]:
    """Return torch's answers at each (batch, sequence), at a perturbed adapter."""
    answers = []
    with perturbed(adapted):
        for seed, (batch, sequence) in enumerate(shapes):
            count(seed, len(shapes))
            adapted.model.zero_grad(set_to_none=True)
            loss, weight = task.reference_loss(task.batch(batch, sequence, seed))
            loss.backward()  # type: ignore[no-untyped-call]
            gradient = adapted.layout.pack(torch_gradients(adapted))
            with torch.no_grad():
                # The first step says it: later ones of a model that generates would take as long again.
                served = task.inference_reference(next(iter(task.inference_batches(batch, sequence, seed))))
            outputs = [tensor.numpy().ravel() for tensor in served.values()]
            answers.append(Answers(float(loss.detach()) / float(weight), gradient, np.concatenate(outputs)))
    adapted.model.zero_grad(set_to_none=True)
    return answers


def packing_cost(
    shapes: Sequence[tuple[int, int]], before: Sequence[Answers], after: Sequence[Answers]
) -> tuple[PackingCost, ...]:
    """Return how far answers of the packed model are from those in float32."""
    return tuple(
        PackingCost(
            batch=batch,
            sequence=sequence,
            loss=exact.loss,
            packed_loss=packed.loss,
            gradient_cosine=_cosine(exact.gradient, packed.gradient),
            outputs_relative=_norm(packed.outputs - exact.outputs) / (_norm(exact.outputs) or 1.0),
        )
        for (batch, sequence), exact, packed in zip(shapes, before, after, strict=True)
    )


def _cosine(one: FloatArray, other: FloatArray) -> float:
    return float(np.dot(one.astype(np.float64), other)) / ((_norm(one) * _norm(other)) or 1.0)


def _norm(values: FloatArray) -> float:
    return float(np.linalg.norm(values.astype(np.float64)))
