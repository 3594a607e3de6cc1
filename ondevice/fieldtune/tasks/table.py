"""Which tasks there are: a line each."""

import dataclasses
import importlib
from pathlib import Path

from fieldtune.bundle import Bundle, ImageSpec, TaskSpec, TextSpec
from fieldtune.errors import InvalidBundle
from fieldtune.tasks.interface import Task

_TASKS = {
    "text-classification": "text_classification:TextClassification",
    "text-generation": "text_generation:TextGeneration",
    "token-classification": "token_classification:TokenClassification",
    "image-classification": "image_classification:ImageClassification",
    "question-answering": "question_answering:QuestionAnswering",
}
"""Name, as optimum has it → module of this package and class in it."""


def task_names() -> tuple[str, ...]:
    """Return the names of all tasks."""
    return tuple(_TASKS)


def task_class(name: str) -> type[Task]:
    """Return the class of a task.

    Raises:
        InvalidBundle: there is no such task.
    """
    if name not in _TASKS:
        raise InvalidBundle(f"task {name!r}: not known to this release; expected one of {', '.join(_TASKS)}")
    module, _, kind = _TASKS[name].partition(":")
    loaded: type[Task] = getattr(importlib.import_module(f"fieldtune.tasks.{module}"), kind)
    return loaded


def new_task(
    spec: TaskSpec,
    *,
    text: TextSpec | None = None,
    image: ImageSpec | None = None,
    tokenizer_path: Path | None = None,
) -> Task:
    """Return a task of a bundle that is not written yet; arguments as for ``Task``.

    Raises:
        InvalidBundle: there is no such task.
    """
    return task_class(spec.name)(spec, text=text, image=image, tokenizer_path=tokenizer_path)


def open_task(bundle: Bundle, labels: tuple[str, ...] = ()) -> Task:
    """Return the task of a bundle.

    Args:
        bundle: the bundle.
        labels: names of the labels, of an adapter that has its own; the bundle's if none.

    Raises:
        InvalidBundle: a task that this release does not know.
    """
    manifest = bundle.manifest
    spec = dataclasses.replace(manifest.task, labels=labels) if labels else manifest.task
    return new_task(spec, text=manifest.text, image=manifest.image, tokenizer_path=bundle.tokenizer_path)
