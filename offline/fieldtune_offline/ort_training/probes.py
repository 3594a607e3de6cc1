"""Probes: batches on which the official artifacts must answer as gradient.onnx does, and how near they come."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fieldtune.adapters import Adapter, to_theta
from fieldtune.bundle import FloatArray, Manifest, OrtParitySpec
from fieldtune.errors import ParityError, listed
from fieldtune_offline.parity.noise import noise_batches
from fieldtune_offline.parity.whole import (
    GRADIENT_TOLERANCE,
    LOSS_TOLERANCE,
    compare_gradients,
    open_on_cpu,
    relative_difference,
)
from fieldtune_offline.tasks.interface import Arrays

_LOSS = "loss"
_TOKENS = "num_embeddings"
"""The name of an axis of tokens."""


@dataclasses.dataclass(frozen=True, slots=True)
class Probes:
    """What is asked, and what gradient.onnx answers.

    Attributes:
        manifest: of the bundle.
        theta: the adapter at which it is asked, moved away from where its gradients are zero.
        batches: arrays by input name.
        expected: for each batch the mean loss, as ``loss``, and its gradient by PEFT key.
    """

    manifest: Manifest
    theta: FloatArray
    batches: tuple[Arrays, ...]
    expected: tuple[Arrays, ...]

    @classmethod
    def of(cls, root: Path, manifest: Manifest, adapter: Adapter) -> "Probes":
        """Return the probes of a bundle, near an adapter."""
        theta = to_theta(adapter, manifest)
        theta += np.random.default_rng(20).normal(0, 0.02, theta.shape).astype(np.float32)
        batches = noise_batches(root, manifest)
        session = open_on_cpu(root / manifest.graphs["gradient"].path)
        expected: list[Arrays] = []
        for batch in batches:
            loss_sum, weight, gradient = session.run(["loss_sum", "weight", "grad_sum"], {**batch, "theta": theta})
            gradients = {key: view / weight for key, view in manifest.layout.views(gradient).items()}
            expected.append({_LOSS: loss_sum / weight, **gradients})
        return cls(manifest, theta, tuple(batches), tuple(expected))

    def arrays(self) -> Arrays:
        """Return all that is asked under one name each: ``theta/KEY`` and ``NUMBER/INPUT``."""
        named = {
            f"{number}/{name}": array for number, batch in enumerate(self.batches) for name, array in batch.items()
        }
        return named | {f"theta/{key}": values for key, values in self.manifest.layout.views(self.theta).items()}

    def padding(self) -> dict[str, Any]:
        """Return the padding token, and the parameters that learn nothing from it, with their axis of tokens.

        torch.nn.Embedding gives no gradient to its padding_idx, which no graph of inference says: the gradients tell.
        """
        axes: dict[str, int] = {}
        if self.manifest.text is None:
            return {"index": 0, "axes": axes}
        index = self.manifest.text.pad_token_id
        for parameter in self.manifest.layout.parameters:
            axis = parameter.axes.index(_TOKENS) if _TOKENS in parameter.axes else None
            if axis is None or parameter.shape[axis] <= index:
                continue
            if not any(np.take(gradients[parameter.key], index, axis).any() for gradients in self.expected):
                axes[parameter.key] = axis
        return {"index": index, "axes": axes}

    def compare(self, answers: Mapping[str, npt.NDArray[Any]]) -> tuple[OrtParitySpec, ...]:
        """Compare the artifacts' answers: ``NUMBER/loss``, ``NUMBER/eval_loss`` and ``NUMBER/KEY``.

        Raises:
            ParityError: a difference above its tolerance; every one is listed.
        """
        records, faults = [], []
        for number, (batch, right) in enumerate(zip(self.batches, self.expected, strict=True)):
            rows, length = batch["input_ids"].shape if "input_ids" in batch else (len(batch["labels"]), 0)
            where = f"batch {rows}, sequence {length}"
            loss, gradients = right[_LOSS], {key: value for key, value in right.items() if key != _LOSS}
            answered = {key: answers[f"{number}/{key}"] for key in gradients}
            # Either may be a tolerance away from torch, on its own side.
            comparison = compare_gradients(answered, gradients, 2 * GRADIENT_TOLERANCE)
            faults += [f"{where}: {fault}" for fault in comparison.faults]
            losses = {name: relative_difference(answers[f"{number}/{name}"], loss) for name in (_LOSS, "eval_loss")}
            faults += [
                f"{where}: {name} is {answers[f'{number}/{name}']}; gradient.onnx has a loss of {loss}"
                for name, difference in losses.items()
                if not difference <= LOSS_TOLERANCE
            ]
            records.append(
                OrtParitySpec(
                    batch=rows, sequence=length, loss_relative=max(losses.values()), gradient_relative=comparison.worst
                )
            )
        if faults:
            raise ParityError(
                "the official artifacts do not compute what gradient.onnx computes; nothing was written"
                f"{listed(faults)}"
            )
        return tuple(records)
