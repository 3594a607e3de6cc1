"""Files and folders of examples into typed examples; every fault of a file is found before one error lists them."""

import difflib
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from fieldtune.bundle.manifest import TaskSpec
from fieldtune.data.columns import (
    Choice,
    available_columns,
    choose_for_classification,
    choose_for_generation,
    choose_for_images,
)
from fieldtune.data.examples import (
    IMAGE_CLASSIFICATION,
    TEXT_CLASSIFICATION,
    TEXT_GENERATION,
    ChatExample,
    ClassificationExample,
    Columns,
    Example,
    GenerationExample,
    ImageExample,
    Message,
    PromptExample,
    TextExample,
)
from fieldtune.data.folders import read_folder
from fieldtune.data.images import is_file
from fieldtune.data.labels import LabelIndex
from fieldtune.data.rows import DELIMITERS, Fault, Row, kind_of, read_rows
from fieldtune.errors import InvalidData, listed

Report: TypeAlias = Callable[[str], None]
"""Takes what is wrong with the row at hand."""

_CHOOSE = {
    TEXT_CLASSIFICATION: choose_for_classification,
    IMAGE_CLASSIFICATION: choose_for_images,
    TEXT_GENERATION: choose_for_generation,
}
_SURROGATE = re.compile("[\ud800-\udfff]")
ROLES = ("system", "developer", "user", "assistant", "tool")


def load_examples(
    path: str | Path, task: TaskSpec, columns: Columns | None = None, *, labelled: bool = True
) -> tuple[tuple[Example, ...], str]:
    """Read the examples of a .jsonl, .json, .ndjson, .csv or .tsv file, or of a folder of images.

    Args:
        path: the file, whose images lie where its cells say, seen from its own folder; or for image classification a
            folder with a sub-folder for each label.
        task: what the bundle is for; its labels are the ones that are known.
        columns: names of columns; what it leaves out is guessed.
        labelled: whether labels, completions and assistant turns must be there. If not, labels and completions are not
            read: the file only says what to run.

    Returns:
        The examples in the file's order, and a line for people that says which columns were taken and which guessed, or
        what of a folder was.

    Raises:
        InvalidData: the file cannot be read, holds nothing, or has faulty lines; all of them are named, up to 20.
        ValueError: an unknown task.
    """
    path = Path(path)
    if task.name not in _CHOOSE:
        raise ValueError(f"task {task.name!r}; expected one of {', '.join(_CHOOSE)}")
    labels = LabelIndex(task.labels)
    if task.name == IMAGE_CLASSIFICATION and path.is_dir():
        return read_folder(path, labels, labelled=labelled)
    rows, faults = read_rows(path)
    if not rows:
        _raise_any(path, faults)
        raise InvalidData(f"{path}: holds no examples; expected one a line")
    try:
        choice = _CHOOSE[task.name](rows, columns or Columns(), labelled=labelled)
    except InvalidData as error:
        # A file without its header would lose its first example to it, so the doubt is worth a hint.
        hint = " (is the header line missing?)" if path.suffix.lower() in DELIMITERS else ""
        raise InvalidData(f"{path}: {error}{hint}{_list(path, faults)}") from error
    examples: list[Example] = []
    for row in rows:
        fault = functools.partial(_add, faults, row.line)
        where = f"{path}:{row.line}"
        example: Example | None
        if task.name == TEXT_GENERATION:
            example = _generation(row, choice, where, fault, labelled=labelled)
        else:
            example = _classification(row, choice, labels, path.parent, where, fault)
        if example is not None:
            examples.append(example)
    if faults and "label" in choice.columns:
        _raise_any(path, faults, _label_advice(rows, choice, labels))
    _raise_any(path, faults)
    return tuple(examples), choice.note(available_columns(rows))


def _add(faults: list[Fault], line: int, message: str) -> None:
    faults.append(Fault(line, message))


def _list(path: Path, faults: Sequence[Fault]) -> str:
    return listed([f"{path}:{fault.line}: {fault.message}" for fault in sorted(faults, key=lambda fault: fault.line)])


def _raise_any(path: Path, faults: Sequence[Fault], advice: str = "") -> None:
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise InvalidData(f"{path}: {count}{advice}{_list(path, faults)}")


def _text(row: Row, column: str, fault: Report) -> str | None:
    """Return a cell that must hold text; None after a fault."""
    if column not in row.cells:
        fault(f"no column {column!r}; it has {', '.join(map(repr, row.cells)) or 'none'}")
        return None
    return _checked_text(row.cells[column], repr(column), fault)


def _checked_text(value: object, what: str, fault: Report) -> str | None:
    if not isinstance(value, str):
        fault(f"{what} is {kind_of(value)}; expected a string")
    elif not value.strip():
        fault(f"{what} is empty")
    elif _SURROGATE.search(value):
        # JSON can escape half a character (\ud83d alone), which no tokenizer accepts.
        fault(f"{what} has half of a surrogate pair, which is not text")
    else:
        return value
    return None


def _classification(
    row: Row, choice: Choice, labels: LabelIndex, folder: Path, where: str, fault: Report
) -> ClassificationExample | ImageExample | None:
    text = _text(row, _content_column(choice), fault)
    if "image" in choice.columns and text is not None and not is_file(folder / text):
        fault(f"{choice.columns['image']!r}: no such file ({folder / text})")
        text = None
    label: int | None = None
    if "label" in choice.columns:
        found = labels.find(row.cells.get(choice.columns["label"]))
        if isinstance(found, str):
            fault(f"{choice.columns['label']!r}: {found}")
            return None
        label = found
    if text is None:
        return None
    if "image" in choice.columns:
        return ImageExample(path=folder / text, label=label, where=where)
    return ClassificationExample(text=text, label=label, where=where)


def _content_column(choice: Choice) -> str:
    """Return the column of what is classified."""
    return choice.columns["image" if "image" in choice.columns else "text"]


def _label_advice(rows: Sequence[Row], choice: Choice, labels: LabelIndex) -> str:
    label_cells = [row.cells.get(choice.columns["label"]) for row in rows]
    if not any(isinstance(labels.find(cell), str) for cell in label_cells):
        return ""
    text_cells = [row.cells.get(_content_column(choice)) for row in rows]
    strange = all(isinstance(labels.find(cell), str) for cell in label_cells)
    names = all(isinstance(labels.find(cell), int) for cell in text_cells)
    longer = sum(len(str(cell)) for cell in label_cells) > sum(len(str(cell)) for cell in text_cells)
    swapped = "; are the columns swapped?" if strange and (names or longer) else ""
    return f"{swapped}; the labels are {labels.known()}"


def _generation(row: Row, choice: Choice, where: str, fault: Report, *, labelled: bool) -> GenerationExample | None:
    if "messages" in choice.columns:
        messages = _messages(row, choice.columns["messages"], fault, labelled=labelled)
        return None if messages is None else ChatExample(messages=messages, where=where)
    if "text" in choice.columns:
        text = _text(row, choice.columns["text"], fault)
        return None if text is None else TextExample(text=text, where=where)
    prompt = _text(row, choice.columns["prompt"], fault)
    completion = _text(row, choice.columns["completion"], fault) if "completion" in choice.columns else ""
    if prompt is None or completion is None:
        return None
    return PromptExample(prompt=prompt, completion=completion, where=where)


def _messages(row: Row, column: str, fault: Report, *, labelled: bool) -> tuple[Message, ...] | None:
    cell = row.cells.get(column)
    if column not in row.cells:
        fault(f"no column {column!r}; it has {', '.join(map(repr, row.cells)) or 'none'}")
        return None
    if not isinstance(cell, list) or not cell:
        fault(f"{column!r} is {kind_of(cell) if cell != [] else 'an empty list'}; expected a list of messages")
        return None
    messages = [_message(item, f"message {number}", fault) for number, item in enumerate(cell, start=1)]
    whole = tuple(message for message in messages if message is not None)
    if len(whole) < len(messages):
        return None
    if labelled and not any(message.role == "assistant" for message in whole):
        fault("no assistant message, so nothing to learn from")
        return None
    return whole


def _message(item: object, what: str, fault: Report) -> Message | None:
    if not isinstance(item, dict):
        fault(f"{what} is {kind_of(item)}; expected an object with role and content")
        return None
    role, more = item.get("role"), sorted(key for key in item if key not in ("role", "content") and item[key])
    if role not in ROLES:
        near = difflib.get_close_matches(role, ROLES, n=1) if isinstance(role, str) else []
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        fault(f"{what}: role is {kind_of(role)}{hint}; expected one of {', '.join(ROLES)}")
        return None
    if more:
        fault(f"{what} has {', '.join(map(repr, more))}; only role and content are supported")
        return None
    content = _checked_text(item.get("content"), f"{what}: content", fault)
    return None if content is None else Message(role=role, content=content)
