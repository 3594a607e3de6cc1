"""Where activations lie: a folder for each prefix below the cache folder, to be listed and cleared."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from fieldtune.activations.records import DATA_NAME, ENTRY_BYTES, INDEX_NAME, LOCK_NAME
from fieldtune.errors import OutputError
from fieldtune.files import FileLock, cache_folder, json_text, open_private, private_folder

ABOUT_NAME = "about.json"
FORMAT_VERSION = "1.0"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PrefixName:
    """What people know a prefix by.

    Attributes:
        base: the base model's id.
        profile: name of the hardware profile.
        graph: name of the graph.
        emulated: whether the CPU stands in for the accelerator.
    """

    base: str = ""
    profile: str = ""
    graph: str = ""
    emulated: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StoredActivations:
    """The activations of one prefix on disk.

    Attributes:
        path: of their folder.
        prefix: what people know it by.
        samples: how many there are.
        size_bytes: of all files.
        last_used_s: when a run last opened them, in seconds since 1970.
    """

    path: Path
    prefix: PrefixName
    samples: int
    size_bytes: int
    last_used_s: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Activations that stay although they were to go, and why: their path, and that a process uses them, or a fault."""

    stored: StoredActivations
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Cleared:
    """What clearing did: folders that are gone, by this or by another process, and those that stay."""

    removed: tuple[StoredActivations, ...]
    kept: tuple[Kept, ...]


def activations_folder() -> Path:
    """Return the folder that holds them all, which need not be there."""
    return cache_folder() / "activations"


def prefix_folder(identity: str, prefix: PrefixName) -> Path:
    """Make the folder of one prefix, and note in it what it is for.

    Args:
        identity: of the prefix and of all that its results depend on.
        prefix: what people know it by.

    Raises:
        OutputError: it cannot be made, or belongs to another user.
    """
    key = hashlib.sha256(identity.encode()).hexdigest()[:32]
    folder = private_folder(private_folder(activations_folder()) / key)
    about = json_text({"format_version": FORMAT_VERSION, "identity": identity, **dataclasses.asdict(prefix)})
    try:
        with os.fdopen(open_private(folder / ABOUT_NAME), "w", encoding="utf-8") as file:
            file.write(about)
            file.truncate()
        # The same text leaves its time as it was on some systems; when it was last used decides what goes first.
        os.utime(folder / ABOUT_NAME)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return folder


def list_activations() -> tuple[StoredActivations, ...]:
    """Return what there is, the longest unused first.

    Raises:
        OutputError: the folder that holds them cannot be read.
    """
    parent = activations_folder()
    try:
        folders = [path for path in parent.iterdir() if path.is_dir() and not path.is_symlink()]
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise OutputError(f"{parent}: cannot be read ({error.strerror or error})") from error
    return tuple(sorted(map(_stored, folders), key=lambda stored: stored.last_used_s))


def clear_activations(chosen: Iterable[StoredActivations] | None = None) -> Cleared:
    """Remove activations that no process uses; what cannot be removed does not keep the rest.

    Args:
        chosen: of ``list_activations``; all of them if None.

    Raises:
        OutputError: the folder that holds them cannot be read.
    """
    removed, kept = [], []
    for stored in list_activations() if chosen is None else chosen:
        reason = _clear(stored.path)
        if reason:
            kept.append(Kept(stored=stored, reason=reason))
        else:
            removed.append(stored)
    return Cleared(removed=tuple(removed), kept=tuple(kept))


def make_room(allowed_bytes: int, beside: Path | None = None) -> int:
    """Remove activations that no process uses, the longest unused first, until the rest takes only so many bytes.

    Args:
        allowed_bytes: for all together, but for those of ``beside``.
        beside: a folder that stays and does not count.

    Returns:
        What the others take now; more than is allowed where processes use them.

    Raises:
        OutputError: the folder that holds them cannot be read.
    """
    others = [stored for stored in list_activations() if stored.path != beside]
    size_bytes = sum(stored.size_bytes for stored in others)
    for stored in others:
        if size_bytes <= allowed_bytes:
            break
        size_bytes -= sum(removed.size_bytes for removed in clear_activations([stored]).removed)
    return size_bytes


def _clear(folder: Path) -> str:
    """Remove a folder that no process uses; return why it stays, "" where it is gone."""
    try:
        lock = FileLock(folder / LOCK_NAME)
    except OutputError as error:
        return str(error) if folder.is_dir() else ""
    try:
        _remove(folder, lock)
    except OSError as error:
        return f"{folder}: cannot be removed ({error.strerror or error})" if folder.is_dir() else ""
    finally:
        lock.close()
    return ""


def _remove(folder: Path, lock: FileLock) -> None:
    for path in folder.iterdir():
        if path.name != LOCK_NAME:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    # The lock goes last, and while it is held: whoever waits for it finds that its file has no name any more.
    try:
        (folder / LOCK_NAME).unlink()
    except PermissionError:  # Windows does not remove what is open
        lock.close()
        (folder / LOCK_NAME).unlink()
    folder.rmdir()


def _stored(folder: Path) -> StoredActivations:
    sizes: dict[str, int] = {}
    last_used_s = 0.0
    # What is being written or removed at this moment is not worth an error.
    with contextlib.suppress(OSError):
        sizes = {path.name: path.lstat().st_size for path in folder.iterdir()}
        last_used_s = (folder / ABOUT_NAME).lstat().st_mtime
    return StoredActivations(
        path=folder,
        prefix=_prefix_name(folder / ABOUT_NAME),
        samples=sizes.get(INDEX_NAME, 0) // ENTRY_BYTES if sizes.get(DATA_NAME) else 0,
        size_bytes=sum(sizes.values()),
        last_used_s=last_used_s,
    )


def _prefix_name(path: Path) -> PrefixName:
    """Return what a folder says it is for; nothing where a process was killed before it had said so."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        texts = {name: data[name] for name in ("base", "profile", "graph") if isinstance(data[name], str)}
        return PrefixName(**texts, emulated=data["emulated"] is True)
    except (OSError, ValueError, KeyError, TypeError):
        return PrefixName()
