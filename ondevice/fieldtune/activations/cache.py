"""ActivationCache: records of samples by digest, in memory and on disk, as many as their limits let in."""

import dataclasses
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

from fieldtune.activations.folders import PrefixName, list_activations, make_room, prefix_folder
from fieldtune.activations.records import ENTRY_BYTES, RecordFiles
from fieldtune.activations.settings import CacheMode, CacheSettings
from fieldtune.errors import OutputError

_OVERHEAD_BYTES = 200
"""Of a record in memory: two bytes objects and their place in a dict."""
_RECOUNTS = 256
"""How often the other folders are looked at while one run writes as much as the limit: other runs may fill theirs. Each
can pass it by at most this part of it before one of them finds it reached."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CacheStatistics:
    """What a cache was good for.

    Attributes:
        mode: where it kept records in the end.
        hits: samples asked for that were there.
        misses: samples asked for that had to be computed.
        samples: that are kept.
        memory_bytes: that they take in memory.
        disk_bytes: that they take on disk.
        full: whether some were not kept because a limit was reached.
        folder: of those on disk; "" where there is none.
        note: why the mode is not the one asked for; "" where it is.
    """

    mode: CacheMode
    hits: int
    misses: int
    samples: int
    memory_bytes: int
    disk_bytes: int
    full: bool
    folder: str
    note: str

    def __str__(self) -> str:
        """Return it on one line, for people."""
        if self.mode == "off":
            return f"off; computed {self.misses:,} times"
        size = self.disk_bytes or self.memory_bytes
        kept = f"{self.samples:,} examples, {size / 1e6:.1f} MB {'on disk' if self.disk_bytes else 'in memory'}"
        said = f"{kept}; found {self.hits:,} times, computed {self.misses:,} times"
        said += "; full: some were not kept" if self.full else ""
        return f"{said}; {self.note}" if self.note else said


class ActivationCache:
    """Records of samples by digest.

    Whatever comes first is kept, and nothing makes room for what comes later: every epoch asks for every sample once,
    and of such an order the least recently used one is the next to be asked for. Only whole folders of other prefixes
    make room, the longest unused first: they are mostly those of bundles that have been replaced.

    Attributes:
        hits: samples asked for that were there.
        misses: samples asked for that had to be computed.

    Args:
        settings: its limits.
        files: on disk, if any; the cache closes them.
        folder: that they are in.
        note: why there are none although the settings ask for them.
    """

    def __init__(
        self, settings: CacheSettings, files: RecordFiles | None = None, folder: Path | None = None, note: str = ""
    ) -> None:
        self._settings = settings
        self._files, self._folder, self._note = files, folder, note
        self._memory: dict[bytes, bytes] = {}
        self._memory_bytes = 0
        self._memory_full = self._disk_full = False
        self.hits = self.misses = 0
        self._disk_bytes = self._others_bytes = self._recount_at = 0
        if files is not None and folder is not None:
            self._disk_bytes = self._held_to_limit(files, folder)

    @property
    def statistics(self) -> CacheStatistics:
        """What it was good for until now."""
        mode = self._settings.activation_cache
        on_disk = 0 if self._files is None else len(self._files)
        in_memory = sum(self._files is None or digest not in self._files for digest in self._memory)
        return CacheStatistics(
            mode="memory" if mode == "disk" and self._files is None else mode,
            hits=self.hits,
            misses=self.misses,
            samples=on_disk + in_memory,
            memory_bytes=self._memory_bytes,
            disk_bytes=0 if self._files is None else self._files.size_bytes,
            full=self._memory_full and (self._disk_full or self._files is None),
            folder="" if self._files is None else str(self._folder),
            note=self._note,
        )

    def get(self, digest: bytes) -> bytes | None:
        """Return a sample's record, or None if it is not there."""
        record = self._memory.get(digest)
        if record is None and self._files is not None:
            record = self._files.read(digest)
            if record is not None:
                self._hold(digest, record)
        if record is None:
            self.misses += 1
        else:
            self.hits += 1
        return record

    def put(self, records: Mapping[bytes, bytes]) -> None:
        """Keep records as far as there is room; a disk that fails is not used any more, after a warning."""
        for digest, record in records.items():
            self._hold(digest, record)
        if self._files is None:
            return
        fitting: dict[bytes, bytes] = {}
        more_bytes = 0
        try:
            for digest, record in records.items():
                if digest in self._files:
                    continue
                more_bytes += len(record) + ENTRY_BYTES
                if not self._fits_on_disk(more_bytes):
                    break
                fitting[digest] = record
            self._files.append(fitting)
        except OutputError as error:
            self._give_up_disk(str(error))

    def close(self) -> None:
        """Let other processes have the files."""
        if self._files is not None:
            self._files.close()

    def _hold(self, digest: bytes, record: bytes) -> None:
        size = len(record) + _OVERHEAD_BYTES
        if digest in self._memory:
            return
        if self._memory_bytes + size > self._settings.memory_bytes:
            self._memory_full = True
            return
        self._memory[digest] = record
        self._memory_bytes += size

    def _held_to_limit(self, files: RecordFiles, folder: Path) -> int:
        """Return how much all folders may take; remove what takes more: it may be that of a run with a higher limit."""
        others_bytes = sum(stored.size_bytes for stored in list_activations() if stored.path != folder)
        # The adapter and its reports need room, too, when all is done.
        room = files.size_bytes + others_bytes + shutil.disk_usage(folder).free // 2
        limit = min(self._settings.disk_bytes, room)
        if files.size_bytes > limit:
            files.clear()
        self._recount(files.size_bytes, limit)
        return limit

    def _recount(self, size_bytes: int, limit_bytes: int) -> None:
        """Look what the other folders take; remove the longest unused if it is too much beside so much of our own."""
        self._others_bytes = make_room(limit_bytes - size_bytes, self._folder)
        self._recount_at = size_bytes + limit_bytes // _RECOUNTS

    def _fits_on_disk(self, more_bytes: int) -> bool:
        """Whether so many bytes still fit; folders of other prefixes are removed for them."""
        assert self._files is not None
        size_bytes = self._files.size_bytes + more_bytes
        allowed = self._disk_bytes - size_bytes
        # No folder goes for what would not fit even then.
        if not self._disk_full and allowed >= 0 and (size_bytes > self._recount_at or self._others_bytes > allowed):
            self._recount(size_bytes, self._disk_bytes)
        self._disk_full = self._disk_full or self._others_bytes > allowed
        return not self._disk_full

    def _give_up_disk(self, why: str) -> None:
        warnings.warn(f"{why}; boundary activations are kept in memory only", stacklevel=3)
        self._note = why
        self.close()
        self._files = None


def open_cache(settings: CacheSettings, identity: str, prefix: PrefixName) -> ActivationCache:
    """Open the cache of a prefix; where its files cannot be used, a warning says why, and memory alone is.

    Args:
        settings: mode and limits.
        identity: of the prefix and of all that its results depend on.
        prefix: what people know it by.
    """
    if settings.activation_cache != "disk":
        return ActivationCache(settings)
    try:
        return _open_on_disk(settings, identity, prefix)
    except OutputError as error:
        warnings.warn(f"{error}; boundary activations are kept in memory only", stacklevel=2)
        return ActivationCache(settings, note=str(error))


def _open_on_disk(settings: CacheSettings, identity: str, prefix: PrefixName) -> ActivationCache:
    if not settings.disk_bytes:
        make_room(0)
        return ActivationCache(settings)
    folder = prefix_folder(identity, prefix)
    files = RecordFiles(folder)
    try:
        return ActivationCache(settings, files, folder)
    except OutputError:
        files.close()
        raise
