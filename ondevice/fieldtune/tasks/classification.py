"""What classifications of texts and of images share: one label an example, and logits of the labels."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from fieldtune.bundle import IGNORE_INDEX, Batch
from fieldtune.data import (
    Available,
    Choice,
    Columns,
    EncodedSet,
    IntArray,
    LabelIndex,
    Report,
    Row,
    available_columns,
    batch_limit,
    batch_of,
    column_flag,
    plan_evaluation,
    refuse_parts,
    refuse_shared,
)
from fieldtune.errors import InvalidData, quoted
from fieldtune.serving import LoadedAdapter, Runner, softmax
from fieldtune.tasks.interface import Figure, Outputs, Task

LABEL_NAMES = ("label", "labels", "class", "category", "sentiment", "target", "intent", "label_text", "polarity")
_LABEL = "label"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Classification:
    """The class of a text or an image.

    Attributes:
        label: name of the likeliest class.
        probabilities: name → probability of every class, in the order of the logits; their sum is 1.
        truncated: whether the text was longer than the model takes, and its end did not count; None of an image.
    """

    label: str
    probabilities: Mapping[str, float]
    truncated: bool | None

    @property
    def probability(self) -> float:
        """The probability of the likeliest class."""
        return self.probabilities[self.label]

    def record(self) -> Mapping[str, object]:
        """Return label and probabilities."""
        record = {"label": self.label, "probability": self.probability, "probabilities": self.probabilities}
        return record if self.truncated is None else {**record, "truncated": self.truncated}

    def lines(self, most: int) -> list[str]:
        """Return the likeliest classes with their probabilities."""
        likeliest = sorted(self.probabilities.items(), key=lambda item: -item[1])[:most]
        return [f"{label} {100 * probability:.1f} %" for label, probability in likeliest]


class ClassMeter:
    """Counts the examples whose class is the likeliest one."""

    def __init__(self, encoded: EncodedSet) -> None:
        classes = np.array([int(example.arrays["labels"]) for example in encoded.examples])
        self._counts = np.unique(classes[classes != IGNORE_INDEX], return_counts=True)[1]
        self._right = 0

    def add(self, indices: IntArray, batch: Batch, outputs: Outputs) -> None:
        """Count a batch by its logits, float32, shape (batch, labels)."""
        labels = batch["labels"]
        counted = labels != IGNORE_INDEX
        self._right += int(np.count_nonzero(outputs["logits"].argmax(axis=-1)[counted] == labels[counted]))

    def figures(self, loss: float) -> tuple[Figure, ...]:
        """Return accuracy, and what naming the examples' most frequent class every time would reach."""
        total = self._counts.sum()
        majority = float(self._counts.max() / total)
        return (
            Figure(name="accuracy", value=self._right / int(total), unit="%"),
            Figure(name="majority_accuracy", value=majority, unit="%", better=None, title="majority class"),
        )


class ClassificationTask(Task):
    """A task with one label an example; subclasses say what is classified."""

    one_label = True
    content_names: ClassVar[Sequence[str]]
    """Usual names of the column of what is classified, which ``item`` names."""

    def choose(self, rows: Sequence[Row], named: Columns, *, labelled: bool) -> Choice:
        """Choose the column of what is classified and, if ``labelled``, the label column.

        Where no column has a usual name for the content, the one column that holds strings beside the label is taken.
        """
        refuse_parts(named, self.columns, self.name)
        columns, part = Available(rows), self.item
        label = columns.named(_LABEL, named) if _LABEL in named else columns.find(LABEL_NAMES, named.get(part))
        if label is None and labelled:
            raise InvalidData(
                f"cannot tell which column holds the label; the columns are {quoted(columns.names)}; "
                f"name it with {column_flag(_LABEL)}"
            )
        if part in named:
            content = columns.named(part, named)
        else:
            content = columns.find(self.content_names, label) or _only_strings(rows, label, part)
        both = {part: content} if label is None else {part: content, _LABEL: label}
        refuse_shared(both)  # also where the label is not read
        return Choice.of(both if labelled else {part: content}, named)

    def advice(self, rows: Sequence[Row], choice: Choice) -> str:
        """Return which labels there are, and whether the columns may be swapped."""
        if _LABEL not in choice.columns:
            return ""
        labels = LabelIndex(self.spec.labels)
        label_cells = [row.cells.get(choice.columns[_LABEL]) for row in rows]
        if not any(isinstance(labels.find(cell), str) for cell in label_cells):
            return ""
        text_cells = [row.cells.get(choice.columns[self.item]) for row in rows]
        strange = all(isinstance(labels.find(cell), str) for cell in label_cells)
        names = all(isinstance(labels.find(cell), int) for cell in text_cells)
        longer = sum(len(str(cell)) for cell in label_cells) > sum(len(str(cell)) for cell in text_cells)
        swapped = "; are the columns swapped?" if strange and (names or longer) else ""
        return f"{swapped}; the labels are {labels.known()}"

    def label_of(self, row: Row, choice: Choice, fault: Report) -> tuple[int | None, bool]:
        """Return the index of a row's class, None where it is not asked for, and whether the row is sound."""
        if _LABEL not in choice.columns:
            return None, True
        column = choice.columns[_LABEL]
        label = LabelIndex(self.spec.labels).find(row.cells.get(column))
        if isinstance(label, str):
            fault(f"{column!r}: {label}")
            return None, False
        return label, True

    def meter(self, encoded: EncodedSet) -> ClassMeter:
        """Return what counts the right classes."""
        return ClassMeter(encoded)

    def classes(
        self, runner: Runner, encoded: EncodedSet, adapter: LoadedAdapter | None, batch_size: int | None
    ) -> list[Classification]:
        """Classify encoded examples, in their order."""
        inputs, manifest = runner.graph.inputs, runner.bundle.manifest
        labels = manifest.task.labels if adapter is None else adapter.labels
        logits = np.empty((len(encoded.examples), len(labels)), np.float32)
        for indices in plan_evaluation(encoded.lengths, batch_limit(batch_size, runner.profile, inputs)):
            arrays = batch_of(encoded.examples, indices, inputs, image=manifest.image)
            # A static graph's batch may end in padding rows.
            logits[indices] = runner.run(arrays, adapter, outputs=["logits"])["logits"][: len(indices)]
        return [
            Classification(
                label=labels[int(row.argmax())],
                probabilities=dict(zip(labels, row.tolist(), strict=True)),
                truncated=example.truncated if manifest.text else None,
            )
            for example, row in zip(encoded.examples, softmax(logits), strict=True)
        ]


def _only_strings(rows: Sequence[Row], label: str | None, part: str) -> str:
    first = rows[0].cells
    candidates = [name for name, cell in first.items() if isinstance(cell, str) and name != label]
    if len(candidates) != 1:
        raise InvalidData(
            f"cannot tell which column holds the {part}; the columns are {quoted(available_columns(rows))}; "
            f"name it with {column_flag(part)}"
        )
    return candidates[0]
