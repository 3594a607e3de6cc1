"""Reading and writing safely: typed fields, JSON, output and cache folders, locks between processes.

The names below are what other rooms use of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.files.caches import cache_folder, open_private, private_folder
    from fieldtune.files.fields import Fields, check_version, is_text, parse_json
    from fieldtune.files.file_lock import FileLock
    from fieldtune.files.json_form import json_text, json_value
    from fieldtune.files.outputs import output_folder

__all__ = [
    "Fields",
    "FileLock",
    "cache_folder",
    "check_version",
    "is_text",
    "json_text",
    "json_value",
    "open_private",
    "output_folder",
    "parse_json",
    "private_folder",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "caches": (
                "cache_folder",
                "open_private",
                "private_folder",
            ),
            "fields": (
                "Fields",
                "check_version",
                "is_text",
                "parse_json",
            ),
            "file_lock": ("FileLock",),
            "json_form": (
                "json_text",
                "json_value",
            ),
            "outputs": ("output_folder",),
        },
    )
