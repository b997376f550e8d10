"""What a task of many writes an output file in a store through: it sends whole parts, and a scrap.

See `upload` for how the parts of many tasks become a file.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import xxhash

from anamnesis.writers.objects import Objects
from anamnesis.writers.outbox import Outbox
from anamnesis.writers.stores import Stored
from anamnesis.writers.upload import State, joined, keep_receipt, state_of


class UploadSink:
    """What a task writes to; `folder` is the URL of the unfinished file.

    How to write is asked while the task begins to read: the first call that needs it raises what
    there is to raise.
    """

    def __init__(self, objects: Objects, folder: str) -> None:
        self._objects, self._folder = objects, folder
        self._outbox = Outbox()
        self._asked = self._outbox.ask(partial(state_of, objects, folder))
        self._open: dict[int, FilledPart] = {}
        self._sent: list[tuple[int, str]] = []
        self._scrap = ""

    def write(self, data: Any, offset: int) -> None:
        """Put a contiguous buffer at an offset; sends the parts that it completes."""
        view, state = memoryview(data).cast("B"), self._asked.result()
        size = state.part_bytes
        while view:
            number, at = divmod(offset, size)
            part = self._open.get(number)
            if part is None:
                part = self._open[number] = FilledPart(min(size, state.nbytes - number * size))
            taken = min(len(view), len(part.data) - at)
            part.write(at, view[:taken])
            view, offset = view[taken:], offset + taken
            if part.full:
                del self._open[number]
                self._outbox.send(partial(self._send, state, number + 1, part.data))

    def finish(self, durable: bool) -> Stored:
        """Send what is left as a scrap; the answer says where everything is."""
        state = self._asked.result()
        ranges: list[tuple[int, int]] = []
        data = bytearray()
        for number, part in sorted(self._open.items()):
            for start, stop in part.ranges:
                ranges.append((number * state.part_bytes + start, stop - start))
                data += memoryview(part.data)[start:stop]
        self._open.clear()
        if ranges:
            self._scrap = f"{ranges[0][0]:016x}-{xxhash.xxh3_64_hexdigest(data)}"
            url = f"{self._folder}/{self._scrap}"
            self._outbox.send(partial(self._objects.put, url, bytes(data)))
        self._outbox.wait()
        return Stored(tuple(sorted(self._sent)), self._scrap, tuple(ranges))

    def keep(self, key: str, receipt: Callable[[], bytes]) -> None:
        """Keep the task's receipt where it outlives the run.

        FileNotFoundError, and nothing is left of the task, where the file has ended.
        """
        keep_receipt(self._objects, self._folder, key, receipt(), self._asked.result(), self._scrap)

    def close(self) -> None:
        """Let go of it, when nothing is on its way any more."""
        self._outbox.close()
        self._open.clear()

    def _send(self, state: State, number: int, data: bytearray) -> None:
        self._sent.append((number, self._objects.part(state.url, state.upload, number, data)))


class FilledPart:
    """A part that fills up; `ranges` are what of it was written, in order and apart."""

    def __init__(self, nbytes: int) -> None:
        self.data = bytearray(nbytes)
        self.ranges: list[tuple[int, int]] = []

    def write(self, at: int, view: memoryview) -> None:
        self.data[at : at + len(view)] = view
        self.ranges = joined([*self.ranges, (at, at + len(view))])

    def cut(self, at: int) -> None:
        """Forget what was written from byte `at` on."""
        self.ranges = [(start, min(stop, at)) for start, stop in self.ranges if start < at]
        self.data[at:] = bytes(len(self.data) - at)

    @property
    def full(self) -> bool:
        return self.ranges == [(0, len(self.data))]


__all__ = ["FilledPart", "UploadSink"]
