"""CompiledStore: compiled forms on disk, each in a folder that is named after the identity of its key.

An entry is written beside its place and renamed when it is whole, so that whatever interrupts a compile leaves nothing
that could be opened. Folders are their owner's alone: options and models may be.
"""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from fieldtune.bundle import Bundle
from fieldtune.compilation.kept.entry import Entry, check_files, read_entry
from fieldtune.compilation.kept.key import CompileKey
from fieldtune.errors import CompileError, FieldtuneError, OutputError, listed
from fieldtune.files import cache_folder, output_folder, private_folder

_NAME_DIGITS = 32
"""Of an identity, in the name of a folder."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A folder of the store.

    Attributes:
        folder: its path.
        size_bytes: of all its files.
        entry: what it holds; None where that cannot be read.
        fault: why it cannot be used; "" where it can, or where that was not checked.
    """

    folder: Path
    size_bytes: int
    entry: Entry | None
    fault: str


class CompiledStore:
    """The compiled forms in a folder.

    Args:
        root: the folder; ``compiled`` in the cache folder if None.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = cache_folder() / "compiled" if root is None else root

    def folder(self, key: CompileKey) -> Path:
        """Return the folder of a key's entry, which need not be there."""
        return self.root / key.identity[:_NAME_DIGITS]

    def find(self, key: CompileKey) -> Entry | None:
        """Return the entry of a key, None where there is none.

        Raises:
            CompileError: it is damaged.
        """
        folder = self.folder(key)
        if not folder.is_dir():
            return None
        try:
            entry = read_entry(folder)
            check_files(entry, folder)
        except FieldtuneError as error:
            raise CompileError(
                f"{error}; compile again with --overwrite, or: fieldtune cache clear --compiled"
            ) from error
        if entry.key != key:
            raise CompileError(
                f"{folder}: holds another compiled form than its name says; compile again with --overwrite"
            )
        return entry

    def require(self, key: CompileKey, bundle: Bundle, command: str) -> Entry:
        """Return the entry of a key.

        Args:
            key: of what is to run now.
            bundle: of it.
            command: that compiles it, for the message.

        Raises:
            CompileError: it is damaged; or there is none, with what differs where one was compiled before.
        """
        entry = self.find(key)
        if entry is not None:
            return entry
        stale = self._nearest(key, bundle)
        if stale is None:
            raise CompileError(f"{bundle.root}: its prefix is not compiled for {key.target}; run: {command}")
        raise CompileError(
            f"{bundle.root}: what was compiled for {key.target} at {stale.created} does not belong to what is to run "
            f"now; run: {command}{listed(stale.key.differences(key))}"
        )

    @contextlib.contextmanager
    def staging(self, key: CompileKey) -> Iterator[Path]:
        """Give an empty folder that becomes the key's entry when the block ends well, and vanishes when it does not.

        Raises:
            OutputError: the store cannot be written.
        """
        private_folder(self.root)
        with output_folder(self.folder(key), overwrite=True, private=True) as folder:
            yield folder

    def list(self) -> list[Stored]:
        """Return what is in the store, the oldest first."""
        try:
            folders = [path for path in self.root.iterdir() if path.is_dir()]
        except OSError:
            return []
        contents = [stored for stored in map(self._stored, folders) if stored is not None]
        return sorted(contents, key=lambda stored: stored.entry.created if stored.entry else "")

    def delete(self, stored: Stored) -> None:
        """Delete a folder of the store, unless it is gone already.

        Raises:
            OutputError: it cannot be deleted.
        """
        try:
            # A file that another process removes first ends rmtree, with the others still there.
            while stored.folder.is_dir():
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(stored.folder)
        except OSError as error:
            raise OutputError(f"{stored.folder}: cannot be deleted: {error.strerror or error}") from error

    def _nearest(self, key: CompileKey, bundle: Bundle) -> Entry | None:
        """Return the entry that differs in the least parts, of this bundle or model, for this accelerator."""
        where = str(bundle.root.resolve())
        entries = [
            stored.entry
            for stored in self.list()
            if stored.entry
            and stored.entry.key.target == key.target
            and (stored.entry.bundle == where or stored.entry.key.model == key.model)
        ]
        return min(entries, key=lambda entry: len(entry.key.differences(key)), default=None)

    def _stored(self, folder: Path) -> Stored | None:
        """Return what a folder holds; None where another process has renamed or removed it meanwhile."""
        size, entry, fault = _size_bytes(folder), None, ""
        if folder.name.startswith("."):
            fault = "not finished: a compile is running, or was killed"
        else:
            try:
                entry = read_entry(folder)
            except FieldtuneError as error:
                fault = str(error)
        return Stored(folder=folder, size_bytes=size, entry=entry, fault=fault) if folder.is_dir() else None


def _size_bytes(folder: Path) -> int:
    """Return the size of all files below a folder."""
    size = 0
    for where, _, names in os.walk(folder):
        for name in names:
            # What is being written or removed at this moment is not worth an error.
            with contextlib.suppress(OSError):
                size += (Path(where) / name).lstat().st_size
    return size
