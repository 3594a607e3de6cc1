"""Token classification: a tag a word, and the entities that the tags of a text name."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fieldtune.data import (
    Choice,
    Columns,
    Encoded,
    EncodedSet,
    Fault,
    LabelIndex,
    Report,
    Row,
    batch_limit,
    batch_of,
    checked_limit,
    length_limit,
    place_of,
    plan_evaluation,
    refuse_empty,
    refuse_longer,
    refuse_parts,
    text_of,
)
from fieldtune.errors import AdapterMismatch, InvalidBundle, InvalidData, listed
from fieldtune.serving import LoadedAdapter, Runner
from fieldtune.tasks.interface import Item, Task
from fieldtune.tasks.tagging import (
    Aligned,
    Entities,
    EntityMeter,
    Scheme,
    SpansExample,
    TaggedText,
    WordsExample,
    align,
    choose_pair,
    from_spans,
    named_in,
    read_spans,
    read_tags,
    read_words,
    repair_note,
    repaired,
    rows_of,
    scheme_of,
)


class TokenClassification(Task):
    """A tag a word, on the first token of each; the others carry no label."""

    name = "token-classification"
    columns = {  # noqa: RUF012 (nobody changes it)
        "tokens": "Holds a list of words.",
        "tags": "Holds a list of their tags.",
        "text": "Holds the text.",
        "spans": "Holds a list of entities: objects of start, end and label.",
    }
    item = "text"

    @functools.cached_property
    def scheme(self) -> Scheme:
        """What the labels' names tell.

        Raises:
            InvalidBundle: they are of no scheme.
        """
        try:
            return scheme_of(self.spec.labels)
        except ValueError as error:
            raise InvalidBundle(f"{self.name}: {error}") from error

    def rows(self, path: Path) -> tuple[list[Row], list[Fault]]:
        """Return the rows of a file; of CoNLL columns, a row is a sentence."""
        return rows_of(path)

    def choose(self, rows: Sequence[Row], named: Columns, *, labelled: bool) -> Choice:
        """Choose the columns of words and tags, or of texts and spans."""
        refuse_parts(named, self.columns, self.name)
        return choose_pair(rows, named, labelled=labelled)

    def read_row(self, row: Row, choice: Choice, file: Path, fault: Report, *, labelled: bool) -> TaggedText | None:
        """Return words with their tags, or a text with its spans."""
        where, columns, labels = row.where(file), choice.columns, self.spec.labels
        if "text" in columns:
            text, spans = text_of(row, columns["text"], fault), None
            if labelled and text is not None:
                spans = read_spans(row, columns["spans"], text, labels, fault)
            if text is None or (labelled and spans is None):
                return None
            return SpansExample(text=text, spans=spans, where=where)
        words = read_words(row, columns["tokens"], fault)
        tags = read_tags(row, columns, labels, self.scheme, fault) if labelled else None
        if words is None or (labelled and tags is None):
            return None
        return WordsExample(words=words, tags=tags, where=where)

    def advice(self, rows: Sequence[Row], choice: Choice) -> str:
        """Return which labels there are, where a tag is none of them."""
        column, labels = choice.columns.get("tags"), LabelIndex(self.spec.labels)
        cells = [row.cells.get(column) for row in rows] if column else []
        unknown = any(isinstance(labels.find(tag), str) for cell in cells if isinstance(cell, list) for tag in cell)
        return f"; the labels are {labels.known()}" if unknown else ""

    def encode(self, examples: Sequence[Any], *, max_length: int | None = None, strict: bool = False) -> EncodedSet:
        """Encode texts, tags on the first token of each word; tags that the scheme forbids are repaired.

        With ``strict`` these are refused, too.
        """
        limit, texts = self._aligned(examples, max_length)
        if strict:
            refuse_longer(examples, [aligned.length for aligned in texts], limit)
        faults: list[str] = []
        repairs: list[str] = []
        encoded: list[Encoded] = []
        for index, (example, aligned) in enumerate(zip(examples, texts, strict=True)):
            place = place_of(examples, index)
            tags: tuple[int, ...] = ()
            if isinstance(example, SpansExample) and example.spans is not None:
                tags, cut = from_spans(example.text, example.spans, aligned.words, self.spec.labels, self.scheme)
                faults += [f"{place}: {line}" for line in cut]
            elif isinstance(example, WordsExample) and example.tags is not None:
                tags, changed = repaired(example.words, example.tags, self.spec.labels, self.scheme)
                repairs += [f"{place}: {line}" for line in changed]
            encoded.append(aligned.encoded(tags, limit))
        if faults:
            raise InvalidData(f"{len(faults)} span(s) that no whole words are{listed(faults)}")
        if repairs and strict:
            raise InvalidData(f"{len(repairs)} tag(s) that {self.scheme} does not allow there{listed(repairs)}")
        notes = [repair_note(repairs, self.scheme)] if repairs else []
        if mute := sum(aligned.mute for aligned in texts):
            notes.append(f"{mute} word(s) left out, of which the tokenizer makes no token")
        return EncodedSet(examples=tuple(encoded), notes=tuple(notes))

    def meter(self, encoded: EncodedSet) -> EntityMeter:
        """Return what compares entities."""
        return EntityMeter(self.spec.labels)

    def asked(self, example: TaggedText, options: Any) -> Item:
        """Return the text, or the words."""
        return Item(example.text, example.words if isinstance(example, WordsExample) else example.text)

    def answer(
        self,
        runner: Runner,
        contents: Sequence[str | Sequence[str]],
        adapter: LoadedAdapter | None = None,
        *,
        batch_size: int | None = None,
        max_length: int | None = None,
        strict: bool = False,
        options: Any = None,
    ) -> list[Entities]:
        """Find the entities of texts, or of lists of words, whose text is these with a space between."""
        labels = self.spec.labels if adapter is None else adapter.labels
        try:
            scheme_of(labels)
        except ValueError as error:
            raise AdapterMismatch(f"{adapter.name if adapter else self.name}: {error}") from error
        examples = [_example(content, f"text {number}") for number, content in enumerate(contents, start=1)]
        inputs = runner.graph.inputs
        limit, texts = self._aligned(examples, length_limit(max_length, runner.profile, inputs, self.text))
        lengths = [aligned.length for aligned in texts]
        if strict:
            refuse_longer(examples, lengths, limit)
        encoded = [Encoded(arrays={"input_ids": aligned.input_ids}, weight=0) for aligned in texts]
        order = plan_evaluation(lengths, batch_limit(batch_size, runner.profile, inputs))
        answers: dict[int, Entities] = {}
        for indices in order:
            logits = runner.run(batch_of(encoded, indices, inputs), adapter, outputs=["logits"])["logits"]
            # A static graph's batch may end in padding rows.
            for index, row in zip(indices.tolist(), logits[: len(indices)], strict=True):
                answers[index] = Entities(
                    entities=named_in(examples[index].text, texts[index], row, labels),
                    truncated=texts[index].length > limit,
                )
        return [answers[index] for index in range(len(examples))]

    def _aligned(self, examples: Sequence[Any], max_length: int | None) -> tuple[int, list[Aligned]]:
        """Return how many tokens a text may have, and each text's."""
        if any(not isinstance(example, WordsExample | SpansExample) for example in examples):
            raise TypeError(f"{self.name} takes WordsExample and SpansExample only")
        words = [example.words if isinstance(example, WordsExample) else None for example in examples]
        with self.lock:
            limit = checked_limit(max_length, self.tokenizer, self.text)
            texts = list(align([example.text for example in examples], words, self.tokenizer, limit))
        refuse_empty(examples, [aligned.input_ids for aligned in texts])
        return limit, texts


def _example(content: str | Sequence[str], where: str) -> TaggedText:
    if isinstance(content, str):
        return SpansExample(text=content, where=where)
    return WordsExample(words=tuple(content), where=where)
