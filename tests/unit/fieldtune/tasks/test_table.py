from pathlib import Path

import pytest
from tokenizers import Tokenizer

from fieldtune.bundle.manifest import TaskSpec, TextSpec
from fieldtune.errors import InvalidBundle
from fieldtune.tasks.table import new_task, task_class, task_names


def test_every_task_goes_by_its_name() -> None:
    assert task_names() == (
        "text-classification",
        "text-generation",
        "token-classification",
        "image-classification",
        "question-answering",
    )
    for name in task_names():
        assert task_class(name).name == name
        assert type(new_task(TaskSpec(name=name, labels=()))) is task_class(name)


def test_unknown_task() -> None:
    with pytest.raises(InvalidBundle, match="task 'translation'"):
        new_task(TaskSpec(name="translation", labels=()))


def test_the_tokenizer_is_loaded_where_it_is_used(tmp_path: Path, tokenizer: Tokenizer, text: TextSpec) -> None:
    spec = TaskSpec(name="text-generation", labels=())
    path = tmp_path / "tokenizer.json"
    task = new_task(spec, text=text, tokenizer_path=path)
    tokenizer.save(str(path))
    assert task.tokenizer.encode("ab").ids == tokenizer.encode("ab").ids
    assert task.tokenizer is task.tokenizer


def test_a_task_without_texts_or_images_says_so() -> None:
    task = new_task(TaskSpec(name="text-generation", labels=()))
    with pytest.raises(ValueError, match="text-generation: the bundle takes no texts"):
        task.text  # noqa: B018
    with pytest.raises(ValueError, match="text-generation: the bundle takes no images"):
        task.image  # noqa: B018
    with pytest.raises(ValueError, match="text-generation: there is no tokenizer"):
        task.tokenizer  # noqa: B018
