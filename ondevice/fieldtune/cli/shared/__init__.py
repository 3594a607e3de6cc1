"""What commands share, of both halves: flags, results, progress, and how a command line runs.

The names below are what commands use of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.cli.shared.flags import (
        DEFAULT_PROFILE,
        BundlePath,
        FilePath,
        FolderPath,
        JsonFlag,
        OnMissingFlag,
        OptionalFolder,
        ProfileName,
    )
    from fieldtune.cli.shared.opened import Opened, open_named
    from fieldtune.cli.shared.placements import placement_table
    from fieldtune.cli.shared.program import Program
    from fieldtune.cli.shared.progress import counted, evaluation_progress, training_progress
    from fieldtune.cli.shared.results import evaluation_rows, new_table, percent, print_json, print_tables, say
    from fieldtune.cli.shared.signals import undisturbed
    from fieldtune.cli.shared.task_flags import (
        ColumnFlags,
        TaskOptions,
        changed_options,
        named_columns,
        names_of,
        names_that_take,
        options_of,
    )
    from fieldtune.cli.shared.usage import UsageError

__all__ = [
    "DEFAULT_PROFILE",
    "BundlePath",
    "ColumnFlags",
    "FilePath",
    "FolderPath",
    "JsonFlag",
    "OnMissingFlag",
    "Opened",
    "OptionalFolder",
    "ProfileName",
    "Program",
    "TaskOptions",
    "UsageError",
    "changed_options",
    "counted",
    "evaluation_progress",
    "evaluation_rows",
    "named_columns",
    "names_of",
    "names_that_take",
    "new_table",
    "open_named",
    "options_of",
    "percent",
    "placement_table",
    "print_json",
    "print_tables",
    "say",
    "training_progress",
    "undisturbed",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "flags": (
                "BundlePath",
                "DEFAULT_PROFILE",
                "FilePath",
                "FolderPath",
                "JsonFlag",
                "OnMissingFlag",
                "OptionalFolder",
                "ProfileName",
            ),
            "opened": (
                "Opened",
                "open_named",
            ),
            "placements": ("placement_table",),
            "program": ("Program",),
            "progress": (
                "counted",
                "evaluation_progress",
                "training_progress",
            ),
            "results": (
                "evaluation_rows",
                "new_table",
                "percent",
                "print_json",
                "print_tables",
                "say",
            ),
            "signals": ("undisturbed",),
            "task_flags": (
                "ColumnFlags",
                "TaskOptions",
                "changed_options",
                "named_columns",
                "names_of",
                "names_that_take",
                "options_of",
            ),
            "usage": ("UsageError",),
        },
    )
