"""What a task reads, encodes, measures and answers: one module a task, and a line in the table.

The names below are what other rooms use of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.tasks.interface import Answer, Figure, Item, NoOptions, Outputs, Task
    from fieldtune.tasks.table import new_task, open_task, task_class, task_names

__all__ = [
    "Answer",
    "Figure",
    "Item",
    "NoOptions",
    "Outputs",
    "Task",
    "new_task",
    "open_task",
    "task_class",
    "task_names",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "interface": (
                "Answer",
                "Figure",
                "Item",
                "NoOptions",
                "Outputs",
                "Task",
            ),
            "table": (
                "new_task",
                "open_task",
                "task_class",
                "task_names",
            ),
        },
    )
