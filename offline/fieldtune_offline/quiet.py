"""What torch, transformers and peft say while they load and trace, and the build says better or need not say."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

# PEFT imports bitsandbytes where it is there, which advises to install kernels that nothing here would use.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda record: "kernels" not in str(record.msg))


@contextlib.contextmanager
def quiet_tracing() -> Iterator[None]:
    """Silence warnings of libraries about their own internals, of which tracing brings thousands."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        yield


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence transformers' table and progress bar of a load; the build names a new head in one line."""
    from transformers.utils import logging as transformers_logging

    logger = logging.getLogger("transformers")
    level = logger.level
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logger.setLevel(logging.CRITICAL)
    try:
        with quiet_tracing():
            yield
    finally:
        logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
