"""What a task reads, encodes, measures and answers: one module a task, and a line in the table.

The names below are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.tasks.interface import Answer, Figure, Item, Task
    from fieldtune.tasks.table import open_task

__all__ = ["Answer", "Figure", "Item", "Task", "open_task"]

__getattr__ = lazy_names(
    __name__,
    {
        "Answer": "fieldtune.tasks.interface",
        "Figure": "fieldtune.tasks.interface",
        "Item": "fieldtune.tasks.interface",
        "Task": "fieldtune.tasks.interface",
        "open_task": "fieldtune.tasks.table",
    },
)
