"""FileLock: a file that one process at a time holds, and that is free again however that process ends."""

import contextlib
import os
import sys
from pathlib import Path

from fieldtune.errors import OutputError
from fieldtune.files.caches import open_private


class FileLock:
    """The lock of a file, held from construction until ``close``.

    Raises:
        OutputError: another process holds it (or another FileLock of this one), or it cannot be made or locked.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        try:
            while self._descriptor < 0:
                descriptor = open_private(path)
                try:
                    _lock(descriptor)
                    # Its folder may have been cleared in between: then the lock is one of a file without a name.
                    if _is_named(descriptor, path):
                        self._descriptor = descriptor
                finally:
                    if self._descriptor < 0:
                        os.close(descriptor)
        except (BlockingIOError, PermissionError) as error:
            raise OutputError(f"{path.parent}: in use by another process") from error
        except (ImportError, OSError) as error:
            raise OutputError(f"{path.parent}: cannot be locked ({error})") from error

    def close(self) -> None:
        """Let it go."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _lock(descriptor: int) -> None:
    """Lock an open file, or raise an OSError at once; ImportError where the system has no locks."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_named(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
