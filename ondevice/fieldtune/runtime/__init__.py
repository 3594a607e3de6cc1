"""ONNX Runtime's sessions: which provider runs them, how they are opened, and adapters in its own form.

The names below are what other rooms use of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.runtime.native_adapters import native_adapter, run_options
    from fieldtune.runtime.plugins import choose_here
    from fieldtune.runtime.providers import ProviderChoice, SessionSettings, choose_provider, cpu_choice
    from fieldtune.runtime.session import (
        check_runtime,
        error_line,
        open_session,
        run_error,
        run_session,
        runtime_errors,
        session_options,
    )

__all__ = [
    "ProviderChoice",
    "SessionSettings",
    "check_runtime",
    "choose_here",
    "choose_provider",
    "cpu_choice",
    "error_line",
    "native_adapter",
    "open_session",
    "run_error",
    "run_options",
    "run_session",
    "runtime_errors",
    "session_options",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "native_adapters": (
                "native_adapter",
                "run_options",
            ),
            "plugins": ("choose_here",),
            "providers": (
                "ProviderChoice",
                "SessionSettings",
                "choose_provider",
                "cpu_choice",
            ),
            "session": (
                "check_runtime",
                "error_line",
                "open_session",
                "run_error",
                "run_session",
                "runtime_errors",
                "session_options",
            ),
        },
    )
