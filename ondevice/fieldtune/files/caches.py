"""The cache folder: what can be made again, and of that what is its user's alone."""

import contextlib
import os
import stat
from pathlib import Path

from fieldtune.errors import OutputError

PRIVATE = 0o700


def cache_folder() -> Path:
    """Return the folder for what can be made again: FIELDTUNE_CACHE, else fieldtune in the user's cache."""
    named = os.environ.get("FIELDTUNE_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fieldtune"


def private_folder(path: Path) -> Path:
    """Make a folder that its owner alone can read, or make one that is there so; return it.

    Raises:
        OutputError: it cannot be made, is something else than a folder, or belongs to another user.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=PRIVATE)
        facts = path.lstat()
        # A link could lead to where others read; whoever owns the folder can open it to them at any time.
        if not stat.S_ISDIR(facts.st_mode):
            raise OutputError(f"{path}: not a folder; remove it, or set FIELDTUNE_CACHE to another place")
        if hasattr(os, "getuid") and facts.st_uid != os.getuid():
            raise OutputError(f"{path}: belongs to another user; set FIELDTUNE_CACHE to a place of your own")
        if stat.S_IMODE(facts.st_mode) != PRIVATE:
            path.chmod(PRIVATE)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be made a folder of its owner alone ({error.strerror or error}); set FIELDTUNE_CACHE to "
            "a place that can be written"
        ) from error
    return path


def open_private(path: Path) -> int:
    """Open a file for reading and writing, made if it is not there, that its owner alone can read.

    Returns:
        Its descriptor.

    Raises:
        OSError: it cannot be opened, or is a link.
    """
    flags = os.O_RDWR | os.O_CREAT
    for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    descriptor = os.open(path, flags, 0o600)
    if hasattr(os, "fchmod"):
        # A umask only takes away, but a file that is there already may be open to others.
        os.fchmod(descriptor, 0o600)
    return descriptor
