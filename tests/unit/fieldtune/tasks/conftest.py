"""The function that makes a task of labels or of none, as a bundle would have it."""

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer

from fieldtune.bundle.manifest import ImageSpec, TaskSpec, TextSpec
from fieldtune.tasks.interface import Task
from fieldtune.tasks.table import new_task


def _made(name: str, *labels: str) -> Callable[..., Task]:
    def make(text: TextSpec | None = None, tokenizer: Tokenizer | None = None, image: ImageSpec | None = None) -> Task:
        task: Any = new_task(TaskSpec(name=name, labels=labels), text=text, image=image)
        if tokenizer is not None:
            task.tokenizer = tokenizer
        return task

    return make


@pytest.fixture
def sentiment() -> Callable[..., Task]:
    return _made("text-classification", "negative", "positive")


@pytest.fixture
def generation() -> Callable[..., Task]:
    return _made("text-generation")


@pytest.fixture
def brightness() -> Callable[..., Task]:
    return _made("image-classification", "dark", "light")


@pytest.fixture
def answering() -> Callable[..., Task]:
    return _made("question-answering")
