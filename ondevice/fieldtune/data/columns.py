"""Which columns of a file hold what: as named, or guessed from their names by fixed lists and said so."""

import collections
import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Literal

from fieldtune.data.examples import Columns
from fieldtune.data.rows import Row
from fieldtune.errors import InvalidData

TEXT_NAMES = ("text", "sentence", "review", "content", "snippet", "input", "question", "comment", "utterance", "body")
LABEL_NAMES = ("label", "labels", "class", "category", "sentiment", "target", "intent", "label_text", "polarity")
IMAGE_NAMES = ("image", "file", "path", "filename", "image_path", "img")
COMPLETION_NAMES = ("completion", "response", "answer", "output")
PAIR_NAMES = {
    "prompt": COMPLETION_NAMES,
    "question": ("answer", *COMPLETION_NAMES),
    "instruction": ("output", *COMPLETION_NAMES),
}
"""Columns that hold a prompt, and for each the columns that may hold its completion; the first that is there counts."""

Part = Literal["text", "image", "label", "prompt", "completion", "messages"]
_MOST_COLUMNS_SHOWN = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """The column of each part, and which of them were guessed."""

    columns: Mapping[Part, str]
    guessed: tuple[Part, ...]

    def note(self, available: Sequence[str]) -> str:
        """Say in one line what was chosen, what of it was guessed, and which columns are left over."""
        chosen = ", ".join(f"{part} from {name!r}" for part, name in self.columns.items())
        flags = [f"--{part}-column" for part in self.guessed if part != "messages"]
        if flags:
            chosen += f" (guessed; name {'it' if len(flags) == 1 else 'them'} with {' and '.join(flags)})"
        unused = [name for name in available if name not in self.columns.values()]
        return f"columns: {chosen}" + (f"; not used: {_quoted(unused)}" if unused else "")


class _Available:
    """The columns of a file, and how many rows have each."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._counts = collections.Counter(name for row in rows for name in row.cells)
        self.names = list(self._counts)

    def named(self, name: str, flag: str) -> str:
        if name in self._counts:
            return name
        near = difflib.get_close_matches(name, self.names, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InvalidData(f"no column {name!r}, which {flag} names{hint}; the columns are {_quoted(self.names)}")

    def find(self, wanted: Sequence[str], taken: str | None = None) -> str | None:
        """Return the column most rows have among those of the wanted names; of equals the first wanted."""
        found = [name for want in wanted for name in self.names if name.strip().lower() == want and name != taken]
        return max(found, key=lambda name: self._counts[name], default=None)


def available_columns(rows: Sequence[Row]) -> list[str]:
    """Return the columns that any row has, in order of appearance."""
    return _Available(rows).names


def choose_for_classification(rows: Sequence[Row], named: Columns, *, labelled: bool) -> Choice:
    """Choose the text and, if ``labelled``, the label column.

    Where no column has a usual name for the text, the one column that holds strings beside the label is taken.

    Raises:
        InvalidData: a named column is missing, or no guess can be made.
    """
    _refuse(named, ("image", "prompt", "completion"), "text classification")
    return _choose_labelled(rows, named, "text", TEXT_NAMES, labelled=labelled)


def choose_for_images(rows: Sequence[Row], named: Columns, *, labelled: bool) -> Choice:
    """Choose the column of the images' files and, if ``labelled``, the label column; as for texts.

    Raises:
        InvalidData: a named column is missing, or no guess can be made.
    """
    _refuse(named, ("text", "prompt", "completion"), "image classification")
    return _choose_labelled(rows, named, "image", IMAGE_NAMES, labelled=labelled)


def _choose_labelled(
    rows: Sequence[Row], named: Columns, part: Literal["text", "image"], names: Sequence[str], *, labelled: bool
) -> Choice:
    columns = _Available(rows)
    asked = named.text if part == "text" else named.image
    label = columns.named(named.label, "--label-column") if named.label else columns.find(LABEL_NAMES, asked)
    if label is None and labelled:
        raise InvalidData(
            f"cannot tell which column holds the label; the columns are {_quoted(columns.names)}; "
            "name it with --label-column"
        )
    if asked:
        content = columns.named(asked, f"--{part}-column")
    else:
        content = columns.find(names, label) or _only_strings(rows, label, part)
    if content == label:
        raise InvalidData(f"{part} and label are both column {content!r}; give them different columns")
    chosen: dict[Part, str] = {part: content}
    if labelled and label is not None:
        chosen["label"] = label
    return Choice(chosen, tuple(part for part in chosen if getattr(named, part) is None))


def choose_for_generation(rows: Sequence[Row], named: Columns, *, labelled: bool) -> Choice:
    """Choose the columns of conversations (``messages``), of prompts and completions, or of whole texts.

    Raises:
        InvalidData: a named column is missing, or no guess can be made.
    """
    _refuse(named, ("image", "label"), "text generation")
    columns = _Available(rows)
    if named.text and (named.prompt or named.completion):
        raise InvalidData("--text-column goes without --prompt-column and --completion-column: name one or the others")
    if named.text:
        return Choice({"text": columns.named(named.text, "--text-column")}, ())
    if not named.prompt and not named.completion and (messages := columns.find(("messages",))):
        return Choice({"messages": messages}, ("messages",))
    pair = _pair(columns, named, labelled=labelled)
    if pair is not None:
        return pair
    if not named.prompt and not named.completion and (text := columns.find(("text",))):
        return Choice({"text": text}, ("text",))
    raise InvalidData(
        f"cannot tell which columns hold the conversation; the columns are {_quoted(columns.names)}; "
        "expected messages, prompt and completion (or response, answer, output), question and answer, instruction and "
        "output, or text; name them with --prompt-column and --completion-column, or --text-column"
    )


def _pair(columns: _Available, named: Columns, *, labelled: bool) -> Choice | None:
    prompts = {named.prompt: COMPLETION_NAMES} if named.prompt else PAIR_NAMES
    for wanted, completions in prompts.items():
        prompt = columns.named(wanted, "--prompt-column") if named.prompt else columns.find((wanted,), named.completion)
        if prompt is None:
            continue
        if named.completion:
            completion: str | None = columns.named(named.completion, "--completion-column")
        else:
            completion = columns.find(completions, prompt)
        if prompt == completion:
            raise InvalidData(f"prompt and completion are both column {prompt!r}; give them different columns")
        if completion is None and labelled:
            continue
        chosen: dict[Part, str] = {"prompt": prompt}
        if labelled and completion is not None:
            chosen["completion"] = completion
        return Choice(chosen, tuple(part for part in chosen if getattr(named, part) is None))
    return None


def _only_strings(rows: Sequence[Row], label: str | None, part: Part) -> str:
    first = rows[0].cells
    candidates = [name for name, cell in first.items() if isinstance(cell, str) and name != label]
    if len(candidates) != 1:
        raise InvalidData(
            f"cannot tell which column holds the {part}; the columns are {_quoted(available_columns(rows))}; "
            f"name it with --{part}-column"
        )
    return candidates[0]


def _refuse(named: Columns, parts: Sequence[Part], task: str) -> None:
    flags = [f"--{part}-column" for part in parts if getattr(named, part) is not None]
    if flags:
        raise InvalidData(f"{' and '.join(flags)} cannot be used: the bundle's task is {task}")


def _quoted(names: Sequence[str]) -> str:
    more = len(names) - _MOST_COLUMNS_SHOWN
    shown = ", ".join(map(repr, names[:_MOST_COLUMNS_SHOWN]))
    return f"{shown}, … and {more} more" if more > 0 else shown
