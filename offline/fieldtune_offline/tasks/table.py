"""Which tasks there are: a line each."""

from fieldtune.errors import UnsupportedModel
from fieldtune_offline.tasks.image_classification import ImageClassification
from fieldtune_offline.tasks.interface import Task
from fieldtune_offline.tasks.question_answering import QuestionAnswering
from fieldtune_offline.tasks.text_classification import TextClassification
from fieldtune_offline.tasks.text_generation import TextGeneration
from fieldtune_offline.tasks.token_classification import TokenClassification

_TASKS: tuple[type[Task], ...] = (
    ImageClassification,
    QuestionAnswering,
    TextClassification,
    TextGeneration,
    TokenClassification,
)


def task_class(name: str) -> type[Task]:
    """Return the class of a task.

    Args:
        name: optimum's name of it, or a synonym that optimum knows.

    Raises:
        UnsupportedModel: no such task, or one that is not supported.
    """
    from optimum.exporters.tasks import TasksManager

    canonical = str(TasksManager.map_from_synonym(name))
    kind = next((task for task in _TASKS if task.name == canonical), None)
    if kind is None:
        known = "known, but not supported" if canonical in TasksManager.get_all_tasks() else "unknown"
        raise UnsupportedModel(f"task {name!r} is {known}; supported: {', '.join(task.name for task in _TASKS)}")
    return kind
