"""Ranges of files behind URLs, fetched before they are read: many at a time, within a budget.

Who reads says beforehand what, in order (`add`): ranges that touch, or nearly, become blocks of at
most `BLOCK_BYTES`, one request each. Blocks fly in that order while their bytes fit in the budget,
and are let go of when everything that was said of them was read. A block that is wanted before its
turn flies at once, over the budget by `BLOCK_BYTES` at most. What there is no room for, and what
nobody spoke of, is read as it comes.

Of *loose* ranges nobody knows when all is read. Blocks of them are kept while there is room: those
that were read longest ago make way first, and are fetched again when they are wanted after all.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from anamnesis import stopping
from anamnesis.limits import KiB, MiB
from anamnesis.readers.base import FileId, Range
from anamnesis.readers.closing import Closing
from anamnesis.readers.remote import RemoteFile
from anamnesis.readers.source import SourceFile

BLOCK_BYTES = 4 * MiB
GAP_BYTES = 256 * KiB  # fetching over so much costs less than another request
REQUESTS = 32  # blocks that fly at a time
_POLL_SECONDS = 0.2

KEPT = 4  # blocks of loose ranges that a reader has read last, and may read on


class _Block:
    """Bytes `[start, stop)` of a file, of which `want` are still to be read, or who knows."""

    __slots__ = ("data", "error", "file", "loose", "start", "state", "stop", "want")

    def __init__(self, file: FileId, start: int, stop: int) -> None:
        self.file, self.start, self.stop = file, start, stop
        self.want = 0
        self.loose = False
        self.state = "waiting"  # flying, here, failed, left (it may come back), gone
        self.data = memoryview(b"")
        self.error: BaseException | None = None

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


class ReadAhead:
    """The blocks of all reading of a process; `key` is who reads. Any thread may call."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._changed = threading.Condition()
        self._queue: deque[_Block] = deque()
        self._blocks: dict[str, dict[str, list[_Block]]] = {}  # of a key, by path and place
        self._read: dict[str, dict[_Block, None]] = {}  # loose ones that are here, the last last
        self._files: dict[str, RemoteFile] = {}
        self._used = self._flying = self._waiting = 0
        self.most_bytes = 0  # that were held at a time

    @property
    def has_room(self) -> bool:
        """Whether more ranges would be of use now."""
        with self._changed:
            return self._used + self._waiting < self._budget

    def add(self, key: str, ranges: Iterable[Range]) -> None:
        """What `key` is going to read, in order."""
        by_path: dict[str, list[_Block]] = {}
        order: list[_Block] = []
        for wanted in ranges:
            _cover(by_path.setdefault(wanted.file.path, []), order, wanted)
        with self._changed:
            self._blocks[key] = by_path
            self._queue.extend(order)
            self._waiting += sum(b.nbytes for blocks in by_path.values() for b in blocks)
            self._pump()

    def drop(self, key: str) -> None:
        """Let go of everything of `key`, which reads no more."""
        with self._changed:
            self._read.pop(key, None)
            for blocks in self._blocks.pop(key, {}).values():
                for block in blocks:
                    self._end(block)
            self._pump()

    def read(self, key: str, file: RemoteFile, offset: int, view: memoryview) -> None:
        """Fill `view` from `offset` of a file; raises what reading it raises."""
        stop = offset + len(view)
        blocks = self._blocks.get(key, {}).get(file.path, [])
        number = bisect_right(blocks, offset, key=_start) - 1
        at = offset
        while at < stop:
            block = blocks[number] if 0 <= number < len(blocks) else None
            if block is not None and block.start <= at < block.stop:
                end = min(stop, block.stop)
                part = view[at - offset : end - offset]
                if not self._take(key, block, at, part):
                    file.fetch_into(at, part)
            else:
                following = blocks[number + 1].start if number + 1 < len(blocks) else stop
                end = min(stop, following)
                file.read_into(at, view[at - offset : end - offset])
            at, number = end, number + 1

    def wrap(self, file: SourceFile, key: str) -> SourceFile:
        """The same file, read by way of this when it is behind a URL."""
        return AheadFile(file, self, key) if isinstance(file, RemoteFile) else file

    def close(self) -> None:
        """Forget everything; what flies ends by itself."""
        for key in list(self._blocks):
            self.drop(key)

    def _take(self, key: str, block: _Block, at: int, view: memoryview) -> bool:
        """Copy from a block, which is waited for; False when it was let go of."""
        with self._changed:
            if block.state in ("waiting", "left"):
                self._make_room(block.nbytes - BLOCK_BYTES, {key: 0})
                if self._used + block.nbytes <= self._budget + BLOCK_BYTES:
                    self._start(block)
            while block.state == "flying":
                self._changed.wait(_POLL_SECONDS)
                stopping.check()
            if block.error is not None:
                raise block.error
            here = block.state == "here"
            data = block.data
        if here:
            view[:] = data[at - block.start : at - block.start + len(view)]
        del data
        with self._changed:
            self._note(key, block, len(view))
        return here

    def _note(self, key: str, block: _Block, nbytes: int) -> None:
        """So much of a block was read; the lock is held."""
        if not block.loose:
            block.want -= nbytes
            if block.want <= 0:
                self._end(block)
                self._pump()
        elif block.state == "here" and key in self._blocks:
            read = self._read.setdefault(key, {})
            new = block not in read
            read.pop(block, None)
            read[block] = None
            if new:
                self._pump()

    def _pump(self) -> None:
        """Have blocks fly while there is room; the lock is held."""
        while self._queue and self._flying < REQUESTS:
            block = self._queue[0]
            if block.state in ("waiting", "left"):
                self._make_room(block.nbytes, {})
                if self._used + block.nbytes > self._budget:
                    return
                self._start(block)
            self._queue.popleft()

    def _make_room(self, nbytes: int, kept: Mapping[str, int]) -> None:
        """Let blocks go that were read, the oldest first, but for a few of each reader."""
        for key, read in self._read.items():
            while len(read) > kept.get(key, KEPT) and self._used + nbytes > self._budget:
                block = next(iter(read))
                del read[block]
                block.state, block.data = "left", memoryview(b"")
                self._used -= block.nbytes

    def _start(self, block: _Block) -> None:
        if block.state == "waiting":
            self._waiting -= block.nbytes
        block.state = "flying"
        self._used += block.nbytes
        self.most_bytes = max(self.most_bytes, self._used)
        self._flying += 1
        threading.Thread(target=self._fly, args=(block,), name="amn-ahead", daemon=True).start()

    def _fly(self, block: _Block) -> None:
        error: BaseException | None = None
        data = memoryview(b"")
        try:
            data = memoryview(bytearray(block.nbytes))
            self._file(block.file).fetch_into(block.start, data)
        except BaseException as caught:
            error = caught
        with self._changed:
            self._flying -= 1
            if block.state == "gone":
                self._used -= block.nbytes
            elif error is not None:
                block.state, block.error = "failed", error
                self._used -= block.nbytes
            else:
                block.state, block.data = "here", data
            self._pump()
            self._changed.notify_all()

    def _file(self, wanted: FileId) -> RemoteFile:
        with self._changed:
            known = self._files.get(wanted.path)
        if known is None or known.id != wanted:
            known = RemoteFile(wanted.path, expected=wanted)
            with self._changed:
                self._files[wanted.path] = known
        return known

    def _end(self, block: _Block) -> None:
        """Let go of a block; the lock is held. Of one that flies, when it lands."""
        if block.state == "waiting":
            self._waiting -= block.nbytes
        if block.state == "here":
            self._used -= block.nbytes
        if block.state != "failed":  # which is to be told once more to whoever reads on
            block.state = "gone"
        block.data = memoryview(b"")


class AheadFile(Closing):
    """A file behind a URL whose ranges may have been fetched ahead; see `SourceFile`."""

    def __init__(self, file: RemoteFile, ahead: ReadAhead, key: str) -> None:
        self._file, self._ahead, self._key = file, ahead, key
        self.path, self.id, self.size = file.path, file.id, file.size

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill a writable buffer from `offset`; IntegrityError if the file ends before."""
        stopping.check()
        self._ahead.read(self._key, self._file, offset, memoryview(buffer).cast("B"))

    def read(self, offset: int, nbytes: int) -> bytes:
        """`nbytes` bytes from `offset`."""
        buffer = bytearray(nbytes)
        self.read_into(offset, buffer)
        return bytes(buffer)

    def check_unchanged(self, expected: FileId | None = None) -> None:
        """Raise IntegrityError when the file is not the one that was opened at first."""
        self._file.check_unchanged(expected)

    def close(self) -> None:
        """Let go of it; a second call does nothing."""
        self._file.close()


class ForwardFile(AheadFile):
    """A file behind a URL that is read from its begin to its end, of which so much is fetched."""

    def __init__(self, file: RemoteFile, budget_bytes: int) -> None:
        super().__init__(file, ReadAhead(budget_bytes), file.path)
        self._ahead.add(file.path, [Range(file.id, 0, file.size, loose=True)])

    def close(self) -> None:
        """Let go of it, and of what was fetched."""
        self._ahead.close()
        super().close()


def blocks_of(ranges: Iterable[Range]) -> tuple[int, int]:
    """How many requests `ReadAhead` makes for ranges that are read, and the bytes of them all."""
    by_path: dict[str, list[_Block]] = {}
    for wanted in ranges:
        _cover(by_path.setdefault(wanted.file.path, []), [], wanted)
    blocks = [block for found in by_path.values() for block in found]
    return len(blocks), sum(block.nbytes for block in blocks)


def _start(block: _Block) -> int:
    return block.start


def _cover(blocks: list[_Block], order: list[_Block], wanted: Range) -> None:
    """Have blocks of a file, in order of place, cover one more range that is read.

    Blocks that are wanted again after others are in the order again: they may have been let go of.
    """
    file, start, stop, loose = wanted
    stop = min(stop, file.size)
    while start < stop:
        number = bisect_right(blocks, start, key=_start) - 1
        block = blocks[number] if number >= 0 else None
        if block is not None and start < block.stop:  # is covered
            end = min(stop, block.stop)
        else:
            limit = blocks[number + 1].start if number + 1 < len(blocks) else stop
            end = min(stop, limit, start + BLOCK_BYTES)
            near = block is not None and start - block.stop <= GAP_BYTES
            if block is not None and near and start < block.start + BLOCK_BYTES:
                end = block.stop = min(end, block.start + BLOCK_BYTES)
            else:
                block = _Block(file, start, end)
                blocks.insert(number + 1, block)
        block.want += end - start
        block.loose |= loose
        if not order or order[-1] is not block:
            order.append(block)
        start = end
