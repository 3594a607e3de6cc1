"""Probes: batches on which the official artifacts must answer as gradient.onnx does, and how near they come."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fieldtune.adapter_inputs import to_theta
from fieldtune.adapters import Adapter
from fieldtune.bundle import TOKENIZER_NAME
from fieldtune.data.batches import batch_of, static_shape
from fieldtune.data.examples import TEXT_CLASSIFICATION, Encoded, EncodedImage
from fieldtune.errors import ParityError, listed
from fieldtune.layout import FloatArray
from fieldtune.manifest import IGNORE_INDEX, ImageSpec, Manifest, OrtParitySpec
from fieldtune_offline.parity import (
    GRADIENT_TOLERANCE,
    LOSS_TOLERANCE,
    compare_gradients,
    open_session,
    relative_difference,
)

_SHAPES = ((3, 17), (2, 34))
_LOSS = "loss"

Arrays = dict[str, npt.NDArray[Any]]


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
        batches = _batches(root, manifest)
        session = open_session(root / manifest.graphs["gradient"].path)
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
            axis = {"lora_embedding_a": 1, "saved": 0}.get(parameter.role)
            if axis is None or len(parameter.shape) != 2 or parameter.shape[axis] <= index:
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
            found = {key: answers[f"{number}/{key}"] for key in gradients}
            # Either may be a tolerance away from torch, on its own side.
            comparison = compare_gradients(found, gradients, 2 * GRADIENT_TOLERANCE)
            faults += [f"{where}: {fault}" for fault in comparison.faults]
            losses = [relative_difference(answers[f"{number}/{name}"], loss) for name in (_LOSS, "eval_loss")]
            if not max(losses) <= LOSS_TOLERANCE:
                faults.append(f"{where}: the loss is {answers[f'{number}/loss']}; gradient.onnx has {loss}")
            records.append(
                OrtParitySpec(
                    batch=rows, sequence=length, loss_relative=max(losses), gradient_relative=comparison.worst
                )
            )
        if faults:
            raise ParityError(
                "the official artifacts do not compute what gradient.onnx computes; nothing was written"
                f"{listed(faults)}"
            )
        return tuple(records)


def _batches(root: Path, manifest: Manifest) -> list[Arrays]:
    """Return batches of noise, with padding and masked labels, in two shapes if they may vary."""
    inputs = manifest.graphs["eval"].inputs
    fixed = static_shape(inputs)
    sizes = dict.fromkeys((fixed[0] or batch, fixed[1] or sequence) for batch, sequence in _SHAPES)
    rng = np.random.default_rng(7)
    vocabulary = _vocabulary(root, manifest) if manifest.text else 0
    batches: list[Arrays] = []
    for batch, sequence in sizes:
        examples: list[Encoded | EncodedImage] = []
        for row in range(batch):
            masked = batch > 2 and row == batch - 1
            if manifest.image:
                examples.append(_image(rng, manifest.image, _label(rng, manifest, masked=masked)))
            else:
                examples.append(_text(rng, manifest, vocabulary, max(2, sequence - 2 * row), row, masked=masked))
        batches.append(batch_of(examples, np.arange(batch), manifest, inputs))
    return batches


def _label(rng: np.random.Generator, manifest: Manifest, *, masked: bool) -> npt.NDArray[np.int64]:
    return np.array(IGNORE_INDEX if masked else rng.integers(0, len(manifest.task.labels)), np.int64)


def _image(rng: np.random.Generator, image: ImageSpec, label: npt.NDArray[np.int64]) -> EncodedImage:
    pixels = rng.integers(0, 256, (image.channels, image.height, image.width), np.uint8)
    return EncodedImage(pixels=pixels, labels=label)


def _text(
    rng: np.random.Generator, manifest: Manifest, vocabulary: int, length: int, row: int, *, masked: bool
) -> Encoded:
    assert manifest.text is not None
    input_ids = rng.integers(0, vocabulary, length)
    if row == 0:
        # The padding token as one that counts: what learns from it and what does not shows in the gradients.
        input_ids[[1, -2]] = manifest.text.pad_token_id
    if manifest.task.name == TEXT_CLASSIFICATION:
        return Encoded(input_ids=input_ids, labels=_label(rng, manifest, masked=masked))
    labels = np.where(np.arange(length) < length // 3, IGNORE_INDEX, input_ids)
    return Encoded(input_ids=input_ids, labels=labels)


def _vocabulary(root: Path, manifest: Manifest) -> int:
    """Return the number of ids that the tokenizer and the embedding have in common: either may have more."""
    from tokenizers import Tokenizer

    graph = ir.load(root / manifest.graphs["eval"].path).graph
    ids = next(value for value in graph.inputs if value.name == "input_ids")
    tables = [use.node.inputs[0] for use in ids.uses() if use.node.op_type == "Gather" and use.idx == 1]
    held = [table.const_value for table in tables if table is not None]
    rows = [tensor.shape.numpy()[0] for tensor in held if tensor is not None]
    return min([Tokenizer.from_file(str(root / TOKENIZER_NAME)).get_vocab_size(), *rows])
