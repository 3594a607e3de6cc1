"""Text classification: one label a text."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fieldtune.bundle import IGNORE_INDEX
from fieldtune.data import (
    Choice,
    Encoded,
    EncodedSet,
    Report,
    Row,
    checked_limit,
    encode_cut,
    length_limit,
    refuse_empty,
    refuse_longer,
    text_of,
)
from fieldtune.serving import LoadedAdapter, Runner
from fieldtune.tasks.classification import Classification, ClassificationTask
from fieldtune.tasks.interface import Item


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationExample:
    """A text and the index of its class; None where it is to be found out. ``where`` is its ``file:line``."""

    text: str
    label: int | None = None
    where: str = dataclasses.field(default="", compare=False)


class TextClassification(ClassificationTask):
    """One label a text."""

    name = "text-classification"
    columns = {"text": "Holds the text.", "label": "Holds the label."}  # noqa: RUF012 (nobody changes it)
    item = "text"
    content_names = (
        "text", "sentence", "review", "content", "snippet", "input", "question", "comment", "utterance", "body",
    )  # fmt: skip

    def read_row(
        self,
        row: Row,
        choice: Choice,
        file: Path,
        fault: Report,
        *,
        labelled: bool,
    ) -> ClassificationExample | None:
        """Return a text and its label."""
        text = text_of(row, choice.columns["text"], fault)
        label, sound = self.label_of(row, choice, fault)
        if text is None or not sound:
            return None
        return ClassificationExample(text=text, label=label, where=row.where(file))

    def encode(self, examples: Sequence[Any], *, max_length: int | None = None, strict: bool = False) -> EncodedSet:
        """Encode texts; a text that is cut keeps the special tokens at both ends."""
        texts = [example.text for example in examples if isinstance(example, ClassificationExample)]
        if len(texts) < len(examples):
            raise TypeError(f"{self.words} takes ClassificationExample only")
        with self.lock:
            limit = checked_limit(max_length, self.tokenizer, self.text)
            cut = list(encode_cut(texts, self.tokenizer, limit))
        refuse_empty(examples, [ids for ids, _ in cut])
        if strict:
            refuse_longer(examples, [length for _, length in cut], limit)
        encoded = []
        for example, (ids, length) in zip(examples, cut, strict=True):
            labels = np.array(IGNORE_INDEX if example.label is None else example.label, np.int64)
            weight = 0 if example.label is None else 1
            arrays = {"input_ids": ids, "labels": labels}
            encoded.append(Encoded(arrays=arrays, weight=weight, length=len(ids), truncated=length > limit))
        return EncodedSet(examples=tuple(encoded))

    def asked(self, example: ClassificationExample, options: Any) -> Item:
        """Return the text."""
        return Item(example.text, example.text)

    def answer(
        self,
        runner: Runner,
        contents: Sequence[str],
        adapter: LoadedAdapter | None = None,
        *,
        batch_size: int | None = None,
        max_length: int | None = None,
        strict: bool = False,
        options: Any = None,
    ) -> list[Classification]:
        """Classify texts."""
        self.check_runner(runner)
        examples = [
            ClassificationExample(text=text, where=f"text {number}") for number, text in enumerate(contents, start=1)
        ]
        limit = length_limit(max_length, runner.profile, runner.graph.inputs, self.text)
        encoded = self.encode(examples, max_length=limit, strict=strict)
        return self.classes(runner, encoded, adapter, batch_size)
