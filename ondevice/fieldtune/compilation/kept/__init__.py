"""What is compiled is kept: under a key of all that it depends on, in entries that are checked before they are used.

The names below are what the rest of the room uses of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.compilation.kept.entry import Entry, file_names, list_files, write_entry
    from fieldtune.compilation.kept.identity import prefix_identity
    from fieldtune.compilation.kept.key import CompileKey, compile_key
    from fieldtune.compilation.kept.store import CompiledStore, Stored

__all__ = [
    "CompileKey",
    "CompiledStore",
    "Entry",
    "Stored",
    "compile_key",
    "file_names",
    "list_files",
    "prefix_identity",
    "write_entry",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "entry": (
                "Entry",
                "file_names",
                "list_files",
                "write_entry",
            ),
            "identity": ("prefix_identity",),
            "key": (
                "CompileKey",
                "compile_key",
            ),
            "store": (
                "CompiledStore",
                "Stored",
            ),
        },
    )
