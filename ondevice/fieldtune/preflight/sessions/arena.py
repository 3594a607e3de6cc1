"""What ONNX Runtime's CPU arena takes from the system to serve a run's buffers.

The arena (``bfc_arena.cc``) rounds sizes up to 256 bytes, takes the smallest free chunk that is large enough, splits it
where at least as much again would be left, and joins neighbours of one region when they are free. It gives nothing
back. A region grows as requested or to the next power of two; what has never been written to takes no memory.
"""

import bisect
import dataclasses
from collections.abc import Sequence

from fieldtune.hardware import ArenaExtend
from fieldtune.preflight.sessions.buffers import BufferEvent

_GRAIN = 256
_FIRST_REGION_BYTES = 1 << 20
_MOST_DEAD_BYTES = 128 << 20


@dataclasses.dataclass(slots=True)
class _Chunk:
    region: int
    offset: int
    size: int
    before: "_Chunk | None" = None
    behind: "_Chunk | None" = None
    free: bool = False

    @property
    def key(self) -> tuple[int, int, int]:
        """Orders free chunks: the smallest first, of equal ones the one that lies first."""
        return (self.size, self.region, self.offset)


class Arena:
    """One arena; buffers of several sessions may go through it."""

    def __init__(self, extend: ArenaExtend) -> None:
        self._extend = extend
        self._region_bytes = _FIRST_REGION_BYTES
        self._written: list[int] = []
        self._free: list[tuple[int, int, int]] = []
        self._chunks: dict[tuple[int, int], _Chunk] = {}
        self._held: dict[str, _Chunk] = {}

    @property
    def written_bytes(self) -> int:
        """What has ever been written to: the memory that it takes."""
        return sum(self._written)

    def run(self, events: Sequence[BufferEvent]) -> None:
        """Serve the buffers of one run, which are all given back at its end."""
        for event in events:
            if not event.size_bytes:
                continue
            if event.taken:
                self._held[event.buffer] = self._take(-(-event.size_bytes // _GRAIN) * _GRAIN)
            else:
                self._give(self._held.pop(event.buffer))

    def _take(self, size: int) -> _Chunk:
        place = bisect.bisect_left(self._free, (size, -1, -1))
        chunk = self._grow(size) if place == len(self._free) else self._unlist(self._free[place])
        if chunk.size >= 2 * size or chunk.size - size >= _MOST_DEAD_BYTES:
            rest = _Chunk(chunk.region, chunk.offset + size, chunk.size - size, chunk, chunk.behind)
            if chunk.behind:
                chunk.behind.before = rest
            chunk.behind, chunk.size = rest, size
            self._list(rest)
        self._written[chunk.region] = max(self._written[chunk.region], chunk.offset + size)
        return chunk

    def _give(self, chunk: _Chunk) -> None:
        if chunk.behind and chunk.behind.free:
            chunk = self._joined(chunk, chunk.behind)
        if chunk.before and chunk.before.free:
            chunk = self._joined(chunk.before, chunk)
        self._list(chunk)

    def _joined(self, chunk: _Chunk, behind: _Chunk) -> _Chunk:
        for part in (chunk, behind):
            if part.free:
                self._unlist(part.key)
        chunk.size += behind.size
        chunk.behind = behind.behind
        if chunk.behind:
            chunk.behind.before = chunk
        return chunk

    def _grow(self, size: int) -> _Chunk:
        region = size
        if self._extend == "power-of-two":
            enough = self._region_bytes >= size
            while self._region_bytes < size:
                self._region_bytes *= 2
            region = self._region_bytes
            if enough:
                self._region_bytes *= 2
        self._written.append(0)
        return _Chunk(len(self._written) - 1, 0, region)

    def _list(self, chunk: _Chunk) -> None:
        chunk.free = True
        self._chunks[chunk.region, chunk.offset] = chunk
        bisect.insort(self._free, chunk.key)

    def _unlist(self, key: tuple[int, int, int]) -> _Chunk:
        self._free.pop(bisect.bisect_left(self._free, key))
        chunk = self._chunks.pop(key[1:])
        chunk.free = False
        return chunk


def pattern_bytes(events: Sequence[BufferEvent]) -> int:
    """Return the one block that ONNX Runtime's memory pattern takes for a run, from the second of equal shapes on.

    Every buffer but the graph's outputs has its place in it: the gap that it fills best (``mem_pattern_planner.h``).
    """
    blocks: list[tuple[int, int, str]] = []
    end = 0
    for event in events:
        if not event.planned or not event.size_bytes:
            continue
        if not event.taken:
            blocks.pop(next(index for index, block in enumerate(blocks) if block[2] == event.buffer))
            continue
        offset = _best_gap(blocks, event.size_bytes)
        bisect.insort(blocks, (offset, event.size_bytes, event.buffer))
        end = max(end, offset + event.size_bytes)
    return end


def _best_gap(blocks: Sequence[tuple[int, int, str]], size: int) -> int:
    start, best, waste = 0, -1, -1
    for offset, length, _ in blocks:
        gap = offset - start
        if gap >= size and (best < 0 or gap - size < waste):
            best, waste = start, gap - size
        start = max(start, offset + length)
    return best if best >= 0 else start
