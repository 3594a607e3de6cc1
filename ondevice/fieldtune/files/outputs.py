"""Output folders: filled beside their place before anything is risked, renamed when whole, gone when not."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from fieldtune.errors import OutputError

_MEGABYTE = 1_000_000


@contextlib.contextmanager
def output_folder(
    out: str | Path,
    *,
    overwrite: bool = False,
    marks: Sequence[str] = (),
    needed_bytes: int = 0,
    private: bool = False,
) -> Iterator[Path]:
    """Give an empty folder beside ``out`` that becomes it when the block ends well, and vanishes when it does not.

    The folder is made at once, so that a place that cannot be written shows before the work, not after it.

    Args:
        out: the folder to come; its parents are made.
        overwrite: whether a folder that is there is replaced, whole, at the end of the block.
        marks: names of files of which a folder to overwrite must hold one, so that nobody's other files are lost to a
            slip of the pen; an empty folder may always be replaced.
        needed_bytes: what the block is going to write.
        private: whether its owner alone can read the folder; otherwise the umask decides.

    Raises:
        OutputError: ``out`` exists (without ``overwrite``) or is not what ``marks`` say; it cannot be written, or the
            disk is too full. An OSError in the block becomes one, too.
    """
    # Absolute, so that "." has a name; not resolved, so that a link is replaced and not what it points to.
    place = Path(os.path.abspath(out))  # noqa: PTH100 (resolve() would follow the link)
    _check_free(place, overwrite, marks)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    except OSError as error:
        raise _unwritable(place, error) from error
    try:
        _check_space(place, needed_bytes)
        yield staging
        if not private:
            staging.chmod(0o777 & ~_umask())  # mkdtemp makes it the owner's alone
        _check_free(place, overwrite, marks)
        _put(staging, place)
    except OutputError as error:
        # What wrote into the staging folder knows no other name of it.
        raise OutputError(str(error).replace(str(staging), str(place))) from error
    except OSError as error:
        raise _unwritable(place, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_free(place: Path, overwrite: bool, marks: Sequence[str]) -> None:
    try:
        if not os.path.lexists(place):
            return
        if not overwrite:
            raise OutputError(f"{place}: exists; choose another folder or add --overwrite")
        if not place.is_dir():
            raise OutputError(f"{place}: is a file; choose another name")
        if marks and any(place.iterdir()) and not any((place / mark).is_file() for mark in marks):
            raise OutputError(
                f"{place}: holds other things (no {' and no '.join(marks)}), which are not overwritten; choose another "
                "folder"
            )
    except OSError as error:
        raise _unwritable(place, error) from error


def _check_space(place: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(place.parent).free
    if free < needed_bytes:
        raise OutputError(
            f"{place}: the disk has {free / _MEGABYTE:.1f} MB left, and {needed_bytes / _MEGABYTE:.1f} MB are needed; "
            "make room or choose another folder"
        )


def _put(staging: Path, place: Path) -> None:
    if not os.path.lexists(place):
        staging.rename(place)
        return
    # A folder that holds files cannot be replaced in one step; the old one waits beside it until the new one is there.
    aside = Path(tempfile.mkdtemp(prefix=f".{place.name}.old.", dir=place.parent))
    old = aside / place.name
    place.rename(old)
    try:
        staging.rename(place)
    except BaseException:
        old.rename(place)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _unwritable(place: Path, error: OSError) -> OutputError:
    return OutputError(f"{place}: cannot be written: {error.strerror or error}")
