"""Calibration data: examples that quantization takes its ranges from, and others, on which accuracy is measured."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fieldtune.bundle import PREFIX_GRAPH, FloatArray, Manifest
from fieldtune.data import EncodedSet, batch_of
from fieldtune.tasks import Task

MEASURED_EXAMPLES = 512
"""On how many examples accuracy is measured, at most; none of them was calibrated on."""
FEWEST_MEASURED = 2
"""Of examples with a label: fewer say nothing of an accuracy."""
_SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Examples of the task for which a prefix is quantized.

    Attributes:
        encoded: all of them, in an order that mixes them: files are often sorted by label.
        count: how many ranges are taken from, from the first one on; accuracy is measured on the others.
        adapter: what suffix_infer.onnx is fed of the bundle's own adapter, by input name, nothing of a merged one;
            None where its head is new, and knows nothing that is worth measuring.
        one_label: whether an example has one label, by which alone accuracy is measured here.
    """

    encoded: EncodedSet
    count: int
    one_label: bool = True
    adapter: Mapping[str, FloatArray] | None = None

    @property
    def measured(self) -> tuple[int, ...]:
        """Indices of the examples with a label that were not calibrated on, at most ``MEASURED_EXAMPLES``."""
        examples = self.encoded.examples
        others = range(self.count, len(examples))
        return tuple(index for index in others if examples[index].weight)[:MEASURED_EXAMPLES]

    @property
    def unmeasured(self) -> str | None:
        """Why accuracy is not measured, in words; None where it is."""
        if not self.one_label:
            return "accuracy is measured where each example has one label"
        if len(self.measured) >= FEWEST_MEASURED:
            return None
        return (
            f"accuracy needs {FEWEST_MEASURED} examples with a label beside the {self.count} that were calibrated on; "
            f"found {len(self.measured)}"
        )

    def __str__(self) -> str:
        """Return on one line what the examples are for."""
        why = f" ({self.unmeasured})" if self.unmeasured else ""
        return f"{self.count} examples to calibrate on, {len(self.measured)} others to measure accuracy on{why}"


def read_calibration(path: Path, task: Task, count: int, max_length: int | None) -> Calibration:
    """Read examples in the formats that training reads; which adapter is measured on them is not known yet.

    Args:
        path: a file or folder.
        task: of the bundle, with the names of the labels that the examples have.
        count: how many ranges are to be taken from; half of them all at most, so that others are left to measure on.
        max_length: that texts are cut to: the sequence of the prefix.

    Raises:
        InvalidData: examples that cannot be used; every one is named, up to 20.
        FieldtuneError: images have to be read, and Pillow is not installed.
    """
    examples, _ = task.read(path)
    order = np.random.Generator(np.random.PCG64(_SEED)).permutation(len(examples))
    chosen = [examples[index] for index in order[: count + MEASURED_EXAMPLES]]
    encoded = task.encode(chosen, max_length=max_length)
    half = (len(encoded.examples) + 1) // 2
    return Calibration(encoded=encoded, count=min(count, half), one_label=task.one_label)


def padded_batches(
    encoded: EncodedSet, indices: Sequence[int], manifest: Manifest, batch: int
) -> Iterator[tuple[int, dict[str, npt.NDArray[Any]]]]:
    """Yield how many samples there are in a batch, and its arrays, of which the last sample fills up the last ones.

    Args:
        encoded: examples.
        indices: which of them.
        manifest: says what the prefix takes.
        batch: samples in a run.
    """
    inputs = manifest.graphs[PREFIX_GRAPH].inputs
    for start in range(0, len(indices), batch):
        chosen = indices[start : start + batch]
        filled = [*chosen, *[chosen[-1]] * (batch - len(chosen))]
        yield len(chosen), batch_of(encoded.examples, np.array(filled), inputs, image=manifest.image)
