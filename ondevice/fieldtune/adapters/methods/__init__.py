"""What a method of adapting a model means for its adapters on the device: one module a method.

The names below are what the rest of the room uses of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.adapters.methods.interface import Method
    from fieldtune.adapters.methods.table import DEFAULT, all_methods, method_named, method_of

__all__ = [
    "DEFAULT",
    "Method",
    "all_methods",
    "method_named",
    "method_of",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "interface": ("Method",),
            "table": (
                "DEFAULT",
                "all_methods",
                "method_named",
                "method_of",
            ),
        },
    )
