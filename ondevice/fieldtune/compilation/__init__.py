"""The frozen prefix on an accelerator: compiled once, kept under a key of all that it depends on, opened from there.

The names below are what other rooms use of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.compilation.comparison import OutputDifference, compare_outputs
    from fieldtune.compilation.compiling import Compiled, compile_prefix
    from fieldtune.compilation.job import planned_report
    from fieldtune.compilation.kept import CompiledStore, Stored
    from fieldtune.compilation.prefix import Prefix, open_prefix
    from fieldtune.compilation.stored_reference import HALF_UP, read_reference

__all__ = [
    "HALF_UP",
    "Compiled",
    "CompiledStore",
    "OutputDifference",
    "Prefix",
    "Stored",
    "compare_outputs",
    "compile_prefix",
    "open_prefix",
    "planned_report",
    "read_reference",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "comparison": (
                "OutputDifference",
                "compare_outputs",
            ),
            "compiling": (
                "Compiled",
                "compile_prefix",
            ),
            "job": ("planned_report",),
            "kept": (
                "CompiledStore",
                "Stored",
            ),
            "prefix": (
                "Prefix",
                "open_prefix",
            ),
            "stored_reference": (
                "HALF_UP",
                "read_reference",
            ),
        },
    )
