"""A packed file on its way into a store: one task writes all of it, in order, as an upload's parts.

Its size is known at its end. A packer may begin once more from its mark on, and fill in later what
it left out (the message before packed buffers), so that a part is sent when all of it was written,
and the one with the mark is kept besides. A part that is sent again replaces the one before it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from anamnesis.writers.objects import Objects
from anamnesis.writers.outbox import Outbox
from anamnesis.writers.stores import Stored
from anamnesis.writers.upload import keep_receipt, state_of
from anamnesis.writers.upload_sink import FilledPart


class PackSink:
    """What a packer writes to; `folder` is the URL of the unfinished file."""

    def __init__(self, objects: Objects, folder: str) -> None:
        self._objects, self._folder = objects, folder
        self._state = state_of(objects, folder)
        self._outbox = Outbox()
        self._open: dict[int, FilledPart] = {}
        self._sent: dict[int, str] = {}  # by number from 0 on
        self._mark, self._kept = -1, b""
        self._nbytes = 0

    def write(self, data: Any, offset: int) -> None:
        """Put a contiguous buffer at an offset; sends the parts that it completes."""
        view, size = memoryview(data).cast("B"), self._state.part_bytes
        while view:
            number, at = divmod(offset, size)
            part = self._open.get(number)
            if part is None:
                part = self._open[number] = FilledPart(size)
            taken = min(len(view), size - at)
            part.write(at, view[:taken])
            view, offset = view[taken:], offset + taken
            if part.full:
                if number == self._mark // size:
                    self._kept = bytes(memoryview(part.data)[: self._mark % size])
                del self._open[number]
                self._send(number, part.data)

    def mark(self, offset: int) -> None:
        """`write` may begin once more from here on; all before is written or open."""
        self._mark, self._kept = offset, b""

    def rewind(self) -> None:
        """Forget what was written from the mark on."""
        self._outbox.wait()  # a part that is sent again may not overtake itself
        number, at = divmod(self._mark, self._state.part_bytes)
        self._open = {n: part for n, part in self._open.items() if n <= number}
        part = self._open.get(number)
        if part is not None:
            part.cut(at)
        elif self._kept:
            part = self._open[number] = FilledPart(self._state.part_bytes)
            part.write(0, memoryview(self._kept))
        self._sent = {n: tag for n, tag in self._sent.items() if n < number}

    def end(self, nbytes: int) -> None:
        """Send what is left of a file of so many bytes."""
        size = self._state.part_bytes
        self._outbox.wait()  # what is on its way is not left
        for number in range(-(-nbytes // size)):
            if number not in self._sent:
                part = self._open.pop(number, None) or FilledPart(size)
                self._send(number, memoryview(part.data)[: nbytes - number * size])
        self._outbox.wait()
        self._nbytes = nbytes

    def keep(self, key: str, receipt: Callable[[], bytes]) -> None:
        """Keep the task's receipt where it outlives the run.

        FileNotFoundError, and nothing is left of the task, where the file has ended.
        """
        keep_receipt(self._objects, self._folder, key, receipt(), self._state)

    def close(self) -> None:
        """Let go of it, when nothing is on its way any more."""
        self._outbox.close()

    def stored(self) -> Stored:
        """Where the file is, after its end."""
        tags = tuple((number + 1, tag) for number, tag in sorted(self._sent.items()))
        return Stored(tags, nbytes=self._nbytes)

    def _send(self, number: int, data: Any) -> None:
        self._outbox.send(partial(self._sending, number, data))

    def _sending(self, number: int, data: Any) -> None:
        state = self._state
        self._sent[number] = self._objects.part(state.url, state.upload, number + 1, data)


__all__ = ["PackSink"]
