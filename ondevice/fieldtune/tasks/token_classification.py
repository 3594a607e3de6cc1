"""Token classification: a tag a word, and the entities that the tags of a text name."""

import bisect
import dataclasses
import difflib
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unicodedata import category

import numpy as np

from fieldtune.bundle import IGNORE_INDEX
from fieldtune.data import (
    Available,
    Choice,
    Columns,
    Encoded,
    EncodedSet,
    Fault,
    IntArray,
    LabelIndex,
    Report,
    Row,
    batch_limit,
    batch_of,
    checked_limit,
    column_flag,
    encode_cut,
    length_limit,
    place_of,
    plan_evaluation,
    refuse_empty,
    refuse_longer,
    refuse_parts,
    text_of,
)
from fieldtune.data.conll import CONLL_SUFFIXES, FIRST, LAST, read_conll
from fieldtune.data.rows import DELIMITERS, JSON_SUFFIXES, checked_text, has_column, kind_of, shortened
from fieldtune.errors import AdapterMismatch, InvalidBundle, InvalidData, listed, quoted
from fieldtune.serving import LoadedAdapter, Runner, softmax
from fieldtune.tasks.entities import OUTSIDE, Entity, EntityMeter, Scheme, entities, kinds_of, scheme_of, tags_of
from fieldtune.tasks.interface import Item, Task

if TYPE_CHECKING:
    import tokenizers

_USUAL = {
    "tokens": ("tokens", "words"),
    "tags": ("ner_tags", "tags", "labels", "ner"),
    "text": ("text", "sentence", "content"),
    "spans": ("spans", "entities"),
}
"""Usual names of the columns; the first that is there counts."""
_PAIRS = (("tokens", "tags"), ("text", "spans"))
_TEXTS_AT_ONCE = 1024
"""The tokenizer works on so many texts in parallel; more would only hold more memory."""


class Span(NamedTuple):
    """Characters ``start`` to ``end``, the last one not included, and the type of the entity that they are."""

    start: int
    end: int
    kind: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WordsExample:
    """Words and the indices of their tags; None where they are to be found out. ``where`` is its ``file:line``."""

    words: tuple[str, ...]
    tags: tuple[int, ...] | None = None
    where: str = dataclasses.field(default="", compare=False)

    @property
    def text(self) -> str:
        """The words with a space between, which is what the tokenizer is given: so words mean it the same as texts."""
        return " ".join(self.words)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SpansExample:
    """A text and its entities; None where they are to be found out. ``where`` is its ``file:line``."""

    text: str
    spans: tuple[Span, ...] | None = None
    where: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NamedEntity:
    """An entity that was found.

    Attributes:
        label: its type.
        text: its characters.
        start: its first character's place in the text.
        end: the place behind its last one.
        score: mean of its words' probabilities of the tags that they got.
    """

    label: str
    text: str
    start: int
    end: int
    score: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Entities:
    """The entities of a text, in its order.

    Attributes:
        entities: those that were found.
        truncated: whether the text was longer than the model takes, so that nothing was looked for in its end.
    """

    entities: tuple[NamedEntity, ...]
    truncated: bool

    def record(self) -> Mapping[str, object]:
        """Return the entities, each with its place, and whether the text was cut."""
        return {"entities": [dataclasses.asdict(found) for found in self.entities], "truncated": self.truncated}

    def lines(self, most: int) -> list[str]:
        """Return the entities, a line each; where there are more, the last line has all the others."""
        said = [
            f"{found.label}: {found.text} ({found.start}-{found.end}) {100 * found.score:.1f} %"
            for found in self.entities
        ]
        alone = said[: most - 1]
        return [*alone, *(["; ".join(said[most - 1 :])] if said[most - 1 :] else [])] or ["no entities"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Aligned:
    """A text's tokens, and the words that begin in them.

    Attributes:
        input_ids: int64, shape (n,), special tokens included, cut to the limit.
        length: tokens before the cut.
        words: start and end of each word in the text.
        pieces: the place of each word's first token; -1 where it has none, or lost it to the cut.
        mute: how many words have no token at all, as where the tokenizer drops their characters.
    """

    input_ids: IntArray
    length: int
    words: tuple[tuple[int, int], ...]
    pieces: tuple[int, ...]
    mute: int


# --- the task


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
        suffix = path.suffix.lower()
        if suffix in CONLL_SUFFIXES:
            return read_conll(path)
        known = (*JSON_SUFFIXES, *DELIMITERS)
        if suffix not in known:
            raise InvalidData(
                f"{path}: unknown kind of file (suffix {suffix!r}); expected one of {', '.join(known)}, or CoNLL "
                f"columns in one of {', '.join(CONLL_SUFFIXES)}"
            )
        return super().rows(path)

    def choose(self, rows: Sequence[Row], named: Columns, *, labelled: bool) -> Choice:
        """Choose the columns of words and tags, or of texts and spans."""
        refuse_parts(named, self.columns, self.name)
        columns = Available(rows)
        if not named and FIRST in columns.names:
            return _conll_choice(columns.names, labelled=labelled)
        pairs = [pair for pair in _PAIRS if not named or any(part in named for part in pair)]
        if len(pairs) == len(_PAIRS) and named:
            (tokens, tags), (text, spans) = (map(column_flag, pair) for pair in _PAIRS)
            raise InvalidData(f"{tokens} and {tags} go without {text} and {spans}: name the former or the latter")
        for content, mark in pairs:
            chosen = {part: columns.named(part, named) for part in (content, mark) if part in named}
            for part in (content, mark):
                found = chosen.get(part) or columns.find(_USUAL[part], chosen.get(content))
                if found is not None and (labelled or part == content):
                    chosen[part] = found
            if content in chosen and (mark in chosen or not labelled):
                return Choice.of({part: chosen[part] for part in (content, mark) if part in chosen}, named)
        raise InvalidData(
            f"cannot tell which columns hold words and tags; the columns are {quoted(columns.names)}; expected tokens "
            "and tags (or ner_tags), or text and spans (or entities); name them with --tokens-column and "
            "--tags-column, or with --text-column and --spans-column"
        )

    def read_row(
        self, row: Row, choice: Choice, file: Path, fault: Report, *, labelled: bool
    ) -> WordsExample | SpansExample | None:
        """Return words with their tags, or a text with its spans."""
        where = row.where(file)
        if "text" in choice.columns:
            text = text_of(row, choice.columns["text"], fault)
            spans = self._spans(row, choice, text, fault) if labelled and text is not None else None
            if text is None or (labelled and spans is None):
                return None
            return SpansExample(text=text, spans=spans, where=where)
        words = _words(row, choice.columns["tokens"], fault)
        tags = self._tags(row, choice, fault) if labelled else None
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
        limit, aligned = self._aligned(examples, max_length)
        if strict:
            refuse_longer(examples, [found.length for found in aligned], limit)
        faults: list[str] = []
        repairs: list[str] = []
        encoded: list[Encoded] = []
        for index, (example, found) in enumerate(zip(examples, aligned, strict=True)):
            place = place_of(examples, index)
            labels = np.full(len(found.input_ids), IGNORE_INDEX, np.int64)
            if isinstance(example, WordsExample):
                tags, changed = self._repaired(example)
                repairs += [f"{place}: {line}" for line in changed]
            else:
                tags, cut = self._from_spans(example, found.words)
                faults += [f"{place}: {line}" for line in cut]
            for piece, tag in zip(found.pieces, tags, strict=True) if tags else ():
                if piece >= 0:
                    labels[piece] = tag
            encoded.append(
                Encoded(
                    arrays={"input_ids": found.input_ids, "labels": labels},
                    weight=int(np.count_nonzero(labels != IGNORE_INDEX)),
                    length=len(found.input_ids),
                    truncated=found.length > limit,
                )
            )
        if faults:
            raise InvalidData(f"{len(faults)} span(s) that no whole words are{listed(faults)}")
        if repairs and strict:
            raise InvalidData(f"{len(repairs)} tag(s) that {self.scheme} does not allow there{listed(repairs)}")
        notes = [_repair_note(repairs, self.scheme)] if repairs else []
        if mute := sum(found.mute for found in aligned):
            notes.append(f"{mute} word(s) left out, of which the tokenizer makes no token")
        return EncodedSet(examples=tuple(encoded), notes=tuple(notes))

    def meter(self, encoded: EncodedSet) -> EntityMeter:
        """Return what compares entities."""
        return EntityMeter(self.spec.labels)

    def asked(self, example: WordsExample | SpansExample, options: Any) -> Item:
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
        limit, aligned = self._aligned(examples, length_limit(max_length, runner.profile, inputs, self.text))
        lengths = [found.length for found in aligned]
        if strict:
            refuse_longer(examples, lengths, limit)
        encoded = [Encoded(arrays={"input_ids": found.input_ids}, weight=0) for found in aligned]
        order = plan_evaluation(lengths, batch_limit(batch_size, runner.profile, inputs))
        answers: dict[int, Entities] = {}
        for indices in order:
            logits = runner.run(batch_of(encoded, indices, inputs), adapter, outputs=["logits"])["logits"]
            # A static graph's batch may end in padding rows.
            for index, row in zip(indices.tolist(), logits[: len(indices)], strict=True):
                found = aligned[index]
                answers[index] = Entities(
                    entities=_named(examples[index].text, found, row, labels), truncated=found.length > limit
                )
        return [answers[index] for index in range(len(examples))]

    # --- rows

    def _tags(self, row: Row, choice: Choice, fault: Report) -> tuple[int, ...] | None:
        column = choice.columns["tags"]
        cells = _list(row, column, fault)
        if cells is None:
            return None
        labels, faults = LabelIndex(self.spec.labels), 0
        tags: list[int] = []
        for number, cell in enumerate(cells, start=1):
            found = labels.find(cell)
            if isinstance(found, int):
                tags.append(found)
                continue
            faults += 1
            fault(f"{column!r}: tag {number}: {self._strange(cell) or found}")
        held = row.cells.get(choice.columns["tokens"])
        if isinstance(held, list) and len(held) != len(cells):
            faults += 1
            fault(
                f"{choice.columns['tokens']!r} has {len(held)} words and {column!r} {len(cells)} tags; "
                "expected a tag for each word"
            )
        return None if faults else tuple(tags)

    def _strange(self, cell: object) -> str:
        """Say that a tag is of another scheme; "" where it is not."""
        prefixes = "BI" if self.scheme == "BIO" else "BIES"
        if isinstance(cell, str) and len(cell) > 1 and cell[1] == "-" and cell[0].isupper() and cell[0] not in prefixes:
            return (
                f"{shortened(cell)} is not of {self.scheme}, which the bundle's labels are in; expected {OUTSIDE} or "
                f"{', '.join(f'{prefix}-' for prefix in prefixes)} before a type"
            )
        return ""

    def _spans(self, row: Row, choice: Choice, text: str, fault: Report) -> tuple[Span, ...] | None:
        column = choice.columns["spans"]
        cells = _list(row, column, fault, empty=True)
        if cells is None:
            return None
        faults: list[str] = []
        spans: list[Span] = []
        for number, cell in enumerate(cells, start=1):
            found = _span(cell, text, kinds_of(self.spec.labels))
            if isinstance(found, str):
                faults.append(f"span {number}: {found}")
            else:
                spans.append(found)
        ordered = sorted(spans)
        for one, other in itertools.pairwise(ordered):
            if other.start < one.end:
                pair = " and ".join(_said(span, text) for span in (one, other))
                faults.append(f"{pair} overlap; a word has one tag")
        for line in faults:
            fault(f"{column!r}: {line}")
        return None if faults else tuple(ordered)

    # --- tokens

    def _aligned(self, examples: Sequence[Any], max_length: int | None) -> tuple[int, list[Aligned]]:
        """Return how many tokens a text may have, and each text's."""
        if any(not isinstance(example, WordsExample | SpansExample) for example in examples):
            raise TypeError(f"{self.name} takes WordsExample and SpansExample only")
        with self.lock:
            limit = checked_limit(max_length, self.tokenizer, self.text)
            found = list(_aligned(examples, self.tokenizer, limit))
        refuse_empty(examples, [one.input_ids for one in found])
        return limit, found

    def _repaired(self, example: WordsExample) -> tuple[tuple[int, ...], list[str]]:
        """Return tags that the scheme allows, none if the example has none, and what was changed, a line each."""
        if example.tags is None:
            return (), []
        labels = self.spec.labels
        given = [labels[index] for index in example.tags]
        right = tags_of(entities(given), len(given), self.scheme)
        changes = [
            f"word {place + 1} {shortened(example.words[place])}: {given[place]!r} {_after(given, place)}; "
            f"expected {right[place]!r}"
            for place in range(len(given))
            if given[place] != right[place]
        ]
        index_of = {label: index for index, label in enumerate(labels)}
        return tuple(index_of[tag] for tag in right), changes

    def _from_spans(self, example: SpansExample, words: Sequence[tuple[int, int]]) -> tuple[tuple[int, ...], list[str]]:
        """Return the tags of a text's words, none if it has no spans, and what is wrong with these, a line each."""
        if example.spans is None:
            return (), []
        faults: list[str] = []
        found: list[Entity] = []
        for span in example.spans:
            inside = [index for index, (start, end) in enumerate(words) if start < span.end and span.start < end]
            if not inside:
                faults.append(f"{_said(span, example.text)} holds no token")
                continue
            start, end = words[inside[0]][0], words[inside[-1]][1]
            if start < span.start or span.end < end:
                whole = shortened(example.text[start:end])
                faults.append(
                    f"{_said(span, example.text)} cuts through a word; did you mean {start} to {end} ({whole})?"
                )
            found.append(Entity(span.kind, inside[0], inside[-1]))
        if faults:
            return (), faults
        tags = tags_of(found, len(words), self.scheme)
        index_of = {label: index for index, label in enumerate(self.spec.labels)}
        lacking = sorted({tag for tag in tags if tag not in index_of})
        if lacking:
            return (), [f"spans of several words need the labels {quoted(lacking)}, which the bundle does not have"]
        return tuple(index_of[tag] for tag in tags), []


def _conll_choice(available: Sequence[str], *, labelled: bool) -> Choice:
    if not labelled:
        return Choice({"tokens": FIRST}, ())
    if LAST not in available:
        raise InvalidData("no line has a tag; expected the token first and its tag last")
    return Choice({"tokens": FIRST, "tags": LAST}, ())


def _list(row: Row, column: str, fault: Report, *, empty: bool = False) -> list[Any] | None:
    """Return a cell that must be a list; None after a fault."""
    if not has_column(row, column, fault):
        return None
    cell = row.cells[column]
    if not isinstance(cell, list):
        fault(f"{column!r} is {kind_of(cell)}; expected a list")
        return None
    if not cell and not empty:
        fault(f"{column!r} is an empty list")
        return None
    return cell


def _words(row: Row, column: str, fault: Report) -> tuple[str, ...] | None:
    cells = _list(row, column, fault)
    if cells is None:
        return None
    found = [checked_text(cell, f"{column!r}: token {number}", fault) for number, cell in enumerate(cells, start=1)]
    return None if None in found else tuple(word for word in found if word is not None)


def _span(cell: object, text: str, kinds: Sequence[str]) -> Span | str:
    """Return a span, or what is wrong with it."""
    if not isinstance(cell, dict):
        return f"is {kind_of(cell)}; expected an object of start, end and label"
    start, end, kind = (cell.get(key) for key in ("start", "end", "label"))
    for key, value in (("start", start), ("end", end)):
        if not isinstance(value, int) or isinstance(value, bool):
            return f"its {key} is {kind_of(value)}; expected a number of characters"
    assert isinstance(start, int)
    assert isinstance(end, int)
    if not 0 <= start < end <= len(text):
        return f"is {start} to {end}; expected one that begins before its end, within the text's {len(text)} characters"
    inner = text[start:end]
    if inner != inner.strip():
        first = start + len(inner) - len(inner.lstrip())
        last = first + len(inner.strip())
        hint = f"; did you mean {first} to {last} ({shortened(inner.strip())})?" if inner.strip() else ""
        return f"is {start} to {end} ({shortened(inner)}), which begins or ends with white space{hint}"
    if not isinstance(kind, str) or kind not in kinds:
        near = difflib.get_close_matches(str(kind), kinds, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        what = shortened(kind) if isinstance(kind, str) else kind_of(kind)
        return f"its label is {what}{hint}; the types are {quoted(kinds)}"
    return Span(start, end, kind)


def _said(span: Span, text: str) -> str:
    return f"span {span.start} to {span.end} ({shortened(text[span.start : span.end])})"


def _after(tags: Sequence[str], place: int) -> str:
    before = repr(tags[place - 1]) if place else "nothing"
    follows = f" and before {tags[place + 1]!r}" if tags[place][0] != "I" and place + 1 < len(tags) else ""
    return f"after {before}{follows}"


def _repair_note(repairs: Sequence[str], scheme: Scheme) -> str:
    count = "1 tag" if len(repairs) == 1 else f"{len(repairs)} tags"
    return f"{count} repaired: {scheme} does not allow them where they are (the first: {repairs[0]})"


def _example(content: str | Sequence[str], where: str) -> WordsExample | SpansExample:
    if isinstance(content, str):
        return SpansExample(text=content, where=where)
    return WordsExample(words=tuple(content), where=where)


def _aligned(
    examples: Sequence[WordsExample | SpansExample], tokenizer: "tokenizers.Tokenizer", limit: int
) -> Iterator[Aligned]:
    for start in range(0, len(examples), _TEXTS_AT_ONCE):
        some = examples[start : start + _TEXTS_AT_ONCE]
        whole = tokenizer.encode_batch([example.text for example in some])
        longer = [index for index, encoding in enumerate(whole) if len(encoding.ids) > limit]
        cut = encode_cut([some[index].text for index in longer], tokenizer, limit)
        short = {index: ids for index, (ids, _) in zip(longer, cut, strict=True)}
        for index, (example, encoding) in enumerate(zip(some, whole, strict=True)):
            given = _places(example.words) if isinstance(example, WordsExample) else None
            words, pieces = _first_pieces(example.text, encoding, given)
            ids = short.get(index)
            # The cut keeps the special tokens at the end, and what was before them goes.
            special = encoding.special_tokens_mask
            ending = next((place for place, mask in enumerate(reversed(special)) if not mask), len(special))
            kept = len(special) if ids is None else len(ids) - ending
            yield Aligned(
                input_ids=np.array(encoding.ids, np.int64) if ids is None else ids,
                length=len(encoding.ids),
                words=tuple(words),
                pieces=tuple(piece if piece < kept else -1 for piece in pieces),
                mute=sum(piece < 0 for piece in pieces),
            )


def _places(words: Sequence[str]) -> list[tuple[int, int]]:
    """Return where words stand in the text that they are with a space between."""
    places: list[tuple[int, int]] = []
    start = 0
    for word in words:
        places.append((start, start + len(word)))
        start += len(word) + 1
    return places


def _first_pieces(
    text: str, encoding: "tokenizers.Encoding", given: list[tuple[int, int]] | None
) -> tuple[list[tuple[int, int]], list[int]]:
    """Return the words of a text, and the place of each one's first token, -1 where it has none.

    Where no words are given, one begins where the tokenizer's own does, at white space, and at a token that begins or
    follows punctuation: tokenizers differ in whether they part it from the word, and entities end before it.
    """
    words: list[tuple[int, int]] = [] if given is None else given
    starts = [start for start, _ in words]
    pieces = [-1] * len(words)
    last: int | None = None
    for place, ((start, end), special, own) in enumerate(
        zip(encoding.offsets, encoding.special_tokens_mask, encoding.word_ids, strict=True)
    ):
        # Byte-level tokenizers may count the space before a word to it.
        while start < end and text[start].isspace():
            start += 1  # noqa: PLW2901 (as the comment says)
        if special or start == end:
            continue
        if given is not None:
            word = bisect.bisect_right(starts, start) - 1
            if pieces[word] < 0 and start < words[word][1]:
                pieces[word] = place
            continue
        before = words[-1][1] if words else 0
        # Tokens of one character's bytes have its offsets each.
        parted = start >= before and (own != last or _parts(text, before, start))
        if not words or parted:
            words.append((start, end))
            pieces.append(place)
        else:
            words[-1] = (words[-1][0], max(before, end))
        last = own
    return words, pieces


def _parts(text: str, before: int, start: int) -> bool:
    """Whether white space is between two tokens, or punctuation or a symbol on either side."""
    gap = any(letter.isspace() for letter in text[before:start])
    return gap or any(category(letter)[0] in "PS" for letter in (text[before - 1], text[start]))


def _named(text: str, found: Aligned, logits: Any, labels: Sequence[str]) -> tuple[NamedEntity, ...]:
    """Return the entities of a text by the logits of its tokens, float32, shape (sequence, labels)."""
    kept = [(word, piece) for word, piece in zip(found.words, found.pieces, strict=True) if piece >= 0]
    if not kept:
        return ()
    probabilities = softmax(logits[[piece for _, piece in kept]])
    tags, sure = [labels[int(index)] for index in probabilities.argmax(axis=-1)], probabilities.max(axis=-1)
    named: list[NamedEntity] = []
    for kind, first, last in entities(tags):
        start, end = kept[first][0][0], kept[last][0][1]
        score = float(sure[first : last + 1].mean())
        named.append(NamedEntity(label=kind, text=text[start:end], start=start, end=end, score=score))
    return tuple(named)
