"""The plain file from which a packed one is made, read without there being one.

Where an output cannot lie unfinished on a disk, the task that packs it decodes what the packer
reads, window by window in file order. A packer that goes back (a buffer that did not shrink) has
those windows decoded again, beside the ones that go on.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import xxhash

from anamnesis.kernels import Window
from anamnesis.limits import MiB
from anamnesis.pipeline.windows import Inputs, Windows, batches
from anamnesis.pipeline.work import Piece, PieceReceipt
from anamnesis.writers.base import OutFile, Slot

KEPT_BYTES = 2 * MiB  # behind what was read last: a packer looks at the beginning of a buffer first
_END = 1 << 63

Heard = Callable[[int, Window, Any], None]  # number of the piece, units, values


class PlainFile:
    """The bytes of `out` before it is packed: `pieces`, in file order, are all of its values."""

    def __init__(self, out: OutFile, pieces: Sequence[Piece], inputs: Inputs) -> None:
        self._pieces, self._inputs = pieces, inputs
        self._fixed = sorted(out.fixed)
        self._begins = [0, *(_end(piece) for piece in pieces[:-1])]
        self._digests = [xxhash.xxh3_128() for _ in pieces]
        self._main = _Cursor(self._windows(0, None, self._digest), 0)
        self._again: _Cursor | None = None

    def read_into(self, buffer: Any, offset: int) -> None:
        """Fill a buffer; what is neither known beforehand nor of a tensor is zero."""
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))
        for at, data in self._fixed:
            _overlay(view, at - offset, data)
        if not self._pieces:
            return
        cursor = self._main
        if offset < cursor.begin:
            if self._again is None or not self._again.has(offset):
                self._again = _Cursor(self._from(offset), offset)
            cursor = self._again
        cursor.read(view, offset)

    def receipts(self) -> list[PieceReceipt]:
        """What each piece had, after the packer has read all of them; reads what it did not."""
        self._main.drain()
        return [
            PieceReceipt(piece.step.tensor.name, *_elems(piece), digest.hexdigest())
            for piece, digest in zip(self._pieces, self._digests, strict=True)
        ]

    def _digest(self, number: int, window: Window, values: Any) -> None:
        self._digests[number].update(values)

    def _from(self, offset: int) -> Iterator[tuple[int, bytes]]:
        """What begins with the last batch of units that lies before `offset`."""
        number = bisect_right(self._begins, offset) - 1
        piece = self._pieces[number]
        step = piece.step
        start = piece.start
        for batch in batches(step, piece.start, piece.stop):
            if _place(step.slot, batch.start * step.tensor.unit_elems) > offset:
                break
            start = batch.start
        return self._windows(number, start, None)

    def _windows(
        self, first: int, start: int | None, heard: Heard | None
    ) -> Iterator[tuple[int, bytes]]:
        """What the windows from a piece, and a unit in it, on write: `(offset, bytes)`."""
        for number, piece in enumerate(self._pieces[first:], first):
            step, begin = piece.step, piece.start if start is None else start
            start = None
            assert step.slot is not None
            windows: Windows
            with self._inputs.opened(step, counted=heard is not None) as windows:
                for window, _, values in windows.over(begin, piece.stop):
                    if heard is not None:
                        heard(number, window, values)
                    written = _Written()
                    step.slot.write(written, window.start * step.tensor.unit_elems, values)
                    yield from written.found


class _Cursor:
    """A stream of `(offset, bytes)` in file order, of which the last are held."""

    def __init__(self, chunks: Iterator[tuple[int, bytes]], begin: int) -> None:
        self.begin = begin  # of what can be read
        self._chunks = chunks
        self._held: deque[tuple[int, bytes]] = deque()
        self._reached = 0

    def has(self, offset: int) -> bool:
        """Whether an offset is held, or what comes next."""
        return self.begin <= offset <= self._reached

    def read(self, view: memoryview, offset: int) -> None:
        """Overlay what lies in a view that begins at `offset`."""
        while self._reached < offset + len(view):
            self._step()
            self._forget(offset - KEPT_BYTES)
        for at, data in self._held:
            _overlay(view, at - offset, data)

    def drain(self) -> None:
        """Go to the end."""
        while self._reached < _END:
            self._step()
            self._held.clear()

    def _step(self) -> None:
        found = next(self._chunks, None)
        if found is None:
            self._reached = _END
        else:
            self._held.append(found)
            self._reached = found[0] + len(found[1])

    def _forget(self, before: int) -> None:
        while self._held and self._held[0][0] + len(self._held[0][1]) <= before:
            at, data = self._held.popleft()
            self.begin = at + len(data)


class _Written:
    """Takes what a slot writes; windows use their memory again."""

    def __init__(self) -> None:
        self.found: list[tuple[int, bytes]] = []

    def write(self, data: Any, offset: int) -> None:
        self.found.append((offset, bytes(memoryview(data).cast("B"))))


def _elems(piece: Piece) -> tuple[int, int]:
    tensor = piece.step.tensor
    first = piece.start * tensor.unit_elems
    return first, min(piece.stop * tensor.unit_elems, tensor.elems)


def _place(slot: Slot | None, elem: int) -> int:
    """Where an element lies in the plain file."""
    assert slot is not None
    return next(slot.ranges(elem, elem + 1))[0]


def _end(piece: Piece) -> int:
    """Where the values of a piece end in the plain file."""
    _, last = _elems(piece)
    assert piece.step.slot is not None
    offset, nbytes = next(piece.step.slot.ranges(last - 1, last))
    return offset + nbytes


def _overlay(view: memoryview, at: int, data: bytes) -> None:
    """Copy what of `data`, which begins at `at`, lies in the view."""
    begin, end = max(at, 0), min(at + len(data), len(view))
    if begin < end:
        view[begin:end] = data[begin - at : end - at]


__all__ = ["PlainFile"]
