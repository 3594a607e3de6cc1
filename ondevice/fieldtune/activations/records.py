"""Records on disk by their digests: an append-only file of them, and an index that is written after what it names.

``records.bin`` holds records and nothing else. ``index.bin`` begins with eight bytes that name the format; entries of
52 bytes follow: the digest (32 bytes), offset (8) and length (4) of its record, CRC-32 of the record (4), and CRC-32 of
these 48 bytes (4); all numbers little-endian. A process that is killed leaves whole records, or bytes that no entry
names. A power cut can also lose bytes that were written: their checksums tell. So nothing is flushed to the disk itself
for each batch, which would take longer on a memory card than computing the batch again.
"""

import contextlib
import os
import struct
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from fieldtune.errors import OutputError
from fieldtune.files import FileLock, open_private

DATA_NAME = "records.bin"
INDEX_NAME = "index.bin"
LOCK_NAME = "lock"
DIGEST_BYTES = 32

_FORMAT = b"ftacts\x00\x01"
_ENTRY = struct.Struct(f"<{DIGEST_BYTES}sQII")
_CHECKSUM = struct.Struct("<I")
ENTRY_BYTES = _ENTRY.size + _CHECKSUM.size


class _Place(NamedTuple):
    offset: int
    length: int
    crc32: int


class RecordFiles:
    """The records of one folder; no other process can open them in the meantime.

    Args:
        folder: one that is there.

    Raises:
        OutputError: another process has them open, or they cannot be opened, read or written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[bytes, _Place] = {}
        self._damaged: dict[bytes, _Place] = {}
        self._data = self._index = -1
        self._data_end = self._index_end = 0
        self._lock = FileLock(folder / LOCK_NAME)
        try:
            self._data = open_private(folder / DATA_NAME)
            self._index = open_private(folder / INDEX_NAME)
            self._load()
        except OSError as error:
            self.close()
            raise OutputError(f"{folder}: cannot be read or written ({error.strerror or error})") from error
        except BaseException:
            self.close()
            raise

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def size_bytes(self) -> int:
        """Of both files."""
        return self._data_end + self._index_end

    def read(self, digest: bytes) -> bytes | None:
        """Return a record; None if there is none, or, after a warning, if it is damaged."""
        place = self._places.get(digest)
        if place is None:
            return None
        fault = ""
        try:
            record = _read(self._data, place.offset, place.length)
            if zlib.crc32(record) == place.crc32:
                return record
        except OSError as error:
            fault = f" ({error.strerror or error})"
        warnings.warn(f"{self._folder}: a damaged record{fault}; it is computed again", stacklevel=2)
        self._damaged[digest] = self._places.pop(digest)
        return None

    def append(self, records: Mapping[bytes, bytes]) -> None:
        """Add records, all of them or, where that fails, none; those whose digests are there stay as they are.

        Raises:
            OutputError: they cannot be written.
        """
        new = {digest: record for digest, record in records.items() if digest not in self._places}
        try:
            places = self._write_records(new)
            entries = b"".join(_entry(digest, place) for digest, place in places.items())
            _write(self._index, self._index_end, entries)
        except OSError as error:
            # A full disk gets back what did not become an entry.
            with contextlib.suppress(OSError):
                os.truncate(self._index, self._index_end)
                os.truncate(self._data, self._data_end)
            raise OutputError(f"{self._folder}: cannot be written ({error.strerror or error})") from error
        # Only now do they count: an interrupt before leaves bytes that the next call overwrites.
        self._index_end += len(entries)
        self._data_end = max([self._data_end, *(place.offset + place.length for place in places.values())])
        self._places.update(places)
        for digest in places:
            self._damaged.pop(digest, None)

    def clear(self) -> None:
        """Drop all records.

        Raises:
            OutputError: the files cannot be written.
        """
        try:
            # The index goes first: no entry is ever without its record.
            self._replace_index([])
            self._index_end, self._data_end = len(_FORMAT), 0
            self._places.clear()
            self._damaged.clear()
            os.truncate(self._data, 0)
        except OSError as error:
            raise OutputError(f"{self._folder}: cannot be written ({error.strerror or error})") from error

    def close(self) -> None:
        """Close the files and let others in."""
        for descriptor in (self._data, self._index):
            if descriptor >= 0:
                os.close(descriptor)
        self._data = self._index = -1
        self._lock.close()

    def _write_records(self, records: Mapping[bytes, bytes]) -> dict[bytes, _Place]:
        places, end, tail = {}, self._data_end, []
        for digest, record in records.items():
            place = _Place(end, len(record), zlib.crc32(record))
            damaged = self._damaged.get(digest)
            if damaged and damaged.length == len(record):
                # In its old place: a record that is damaged again and again does not fill the disk.
                place = place._replace(offset=damaged.offset)
                _write(self._data, place.offset, record)
            else:
                tail.append(record)
                end += len(record)
            places[digest] = place
        _write(self._data, self._data_end, b"".join(tail))
        return places

    def _load(self) -> None:
        """Read the index; cut off what a process that was killed left behind."""
        data_bytes = os.fstat(self._data).st_size
        index = _read(self._index, 0, os.fstat(self._index).st_size)
        body = index[len(_FORMAT) :]
        if not index.startswith(_FORMAT):
            if len(index) >= len(_FORMAT):
                warnings.warn(f"{self._folder}: activations of another release; they are dropped", stacklevel=4)
            body = b""
        entries = [_place_of(body[at : at + ENTRY_BYTES]) for at in range(0, len(body), ENTRY_BYTES)]
        sound = [item for item in entries if item and item[1].offset + item[1].length <= data_bytes]
        self._places.update(sound)
        self._index_end = len(_FORMAT) + ENTRY_BYTES * len(sound)
        self._data_end = max((place.offset + place.length for _, place in sound), default=0)
        if self._index_end != len(index) or not body:
            # An entry whose record is gone would name whatever is written there next.
            self._replace_index(sound)
        os.truncate(self._data, self._data_end)

    def _replace_index(self, entries: list[tuple[bytes, _Place]]) -> None:
        path = self._folder / INDEX_NAME
        beside = path.with_suffix(".new")
        beside.unlink(missing_ok=True)
        descriptor = open_private(beside)
        try:
            _write(descriptor, 0, _FORMAT + b"".join(_entry(digest, place) for digest, place in entries))
        finally:
            os.close(descriptor)
        os.close(self._index)
        self._index = -1
        beside.replace(path)
        self._index = open_private(path)


def _read(descriptor: int, offset: int, length: int) -> bytes:
    """Return so many bytes from there, or fewer at the end of the file."""
    os.lseek(descriptor, offset, os.SEEK_SET)
    parts: list[bytes] = []
    while length and (part := os.read(descriptor, length)):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _write(descriptor: int, offset: int, data: bytes) -> None:
    os.lseek(descriptor, offset, os.SEEK_SET)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _entry(digest: bytes, place: _Place) -> bytes:
    packed = _ENTRY.pack(digest, place.offset, place.length, place.crc32)
    return packed + _CHECKSUM.pack(zlib.crc32(packed))


def _place_of(entry: bytes) -> tuple[bytes, _Place] | None:
    """Return the digest and the place of an entry, or None if it is torn or altered."""
    if len(entry) < ENTRY_BYTES or _CHECKSUM.unpack(entry[_ENTRY.size :])[0] != zlib.crc32(entry[: _ENTRY.size]):
        return None
    digest, *place = _ENTRY.unpack(entry[: _ENTRY.size])
    return digest, _Place(*place)
