"""The I/O floor of a plan: its very reads and writes, with nothing between them.

The operations are taken from the plan before the clock starts: the same spans in the same order,
split into the same tasks, through buffers of the same sizes, by as many threads, and what a task
has written goes to the disk while others run.

By itself (`main`) it is the floor of a whole command: a process that imports what the command
imports, makes the plan, and begins no sooner after its start than the command writes values. A
host takes memory back that a guest leaves free while a process starts, and a floor that did not
start would not pay for that.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anamnesis.kernels import Window
from anamnesis.owned import write_back
from anamnesis.pipeline.encoding import EncodedPiece
from anamnesis.pipeline.plan import Plan, Step, Task
from anamnesis.pipeline.windows import Windows
from anamnesis.pipeline.work import Piece
from anamnesis.readers.base import FileId
from anamnesis.readers.batch import BlockReader


class Read(NamedTuple):
    path: str
    offset: int
    at: int  # in the reader's buffer
    nbytes: int


class Write(NamedTuple):
    offset: int
    nbytes: int


class Floor:
    """The operations of every task of a plan, ready to run again and again."""

    def __init__(self, plan: Plan, out: Path, threads: int) -> None:
        if len(plan.layout.files) != 1:
            raise ValueError("one output file is expected")
        self._out = out
        self._nbytes = plan.layout.files[0].nbytes
        self._threads = threads
        self._paths = sorted({f.path for f in plan.model.files})
        self._tasks = [operations(task) for task in plan.tasks]
        self._memory = max(t.memory_bytes for t in plan.tasks)

    @property
    def operations(self) -> int:
        return sum(map(len, self._tasks))

    def run(self) -> None:
        """Do all of it; the output has its size and no useful content."""
        fd = os.open(self._out, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.ftruncate(fd, self._nbytes)
        waiting = deque(self._tasks)
        threads = [
            threading.Thread(target=self._work, args=(waiting, fd)) for _ in range(self._threads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os.fsync(fd)
        os.close(fd)

    def _work(self, waiting: deque[list[Read | Write]], out: int) -> None:
        fds = {path: os.open(path, os.O_RDONLY) for path in self._paths}
        source = memoryview(np.empty(self._memory, np.uint8))
        values = memoryview(np.full(self._memory, 0x3C, np.uint8))
        while True:
            try:
                operations = waiting.popleft()
            except IndexError:
                break
            for operation in operations:
                if len(operation) == 4:
                    path, offset, at, nbytes = operation
                    os.preadv(fds[path], [source[at : at + nbytes]], offset)
                else:
                    offset, nbytes = operation
                    os.pwrite(out, values[:nbytes], offset)
            writes = [operation for operation in operations if len(operation) == 2]
            if writes:
                begin, end = min(w.offset for w in writes), max(w.offset + w.nbytes for w in writes)
                write_back(out, begin, end - begin)
        for fd in fds.values():
            os.close(fd)


class _Recorder:
    """An input file of which nothing is read: it notes what would be, and where it would go."""

    def __init__(self, path: str, found: list[Read | Write], room: int) -> None:
        self._path, self._found, self._room = path, found, room
        self._at = 0

    def read_into(self, offset: int, buffer: Any) -> None:
        nbytes = memoryview(buffer).nbytes
        begins = not self._found or len(self._found[-1]) != len(Read._fields)
        at = 0 if begins or self._at + nbytes > self._room else self._at
        self._found.append(Read(self._path, offset, at, nbytes))
        self._at = at + nbytes


def operations(task: Task) -> list[Read | Write]:
    """The reads and writes of a task, in order."""
    found: list[Read | Write] = []
    files: dict[str, Any] = {}

    def open_file(wanted: FileId) -> Any:
        if wanted.path not in files:
            files[wanted.path] = _Recorder(wanted.path, found, task.memory_bytes)
        return files[wanted.path]

    for piece in task.pieces:
        step = piece.step
        for window, _, _ in Windows(step, open_file, _undecoded).over(piece.start, piece.stop):
            found += [Write(*span) for span in _written(piece, window)]
    return found


def _written(piece: Piece, window: Window) -> Iterator[tuple[int, int]]:
    """Where what a window becomes is stored: offsets and bytes."""
    step, tensor = piece.step, piece.step.tensor
    if isinstance(piece, EncodedPiece):
        units = piece.units(window.start, window.stop)
        for part, slot in zip(piece.encoded.form.parts, piece.encoded.slots, strict=True):
            first, last = part.span(*units)
            if last > first:
                yield from slot.ranges(first, last)
        return
    if step.slot is None:
        raise ValueError("a step without a place")
    first = window.start * tensor.unit_elems
    yield from step.slot.ranges(first, min(window.stop * tensor.unit_elems, tensor.elems))


def _undecoded(step: Step, reader: BlockReader) -> Callable[[Any, Window], None]:
    """Parameters are read, as for decoding; values are not made."""
    if step.tensor.encoding != "copy":
        reader.wholes()
    return lambda views, window: None


def main() -> None:
    """Arguments: model, output, threads, seconds from the process's start to the first write.

    One more is the target that the command encodes to.
    """
    begin = float(os.environ["AMN_BENCH_BEGIN"])
    path, out, threads, startup, *target = sys.argv[1:]
    import anamnesis.cli.main
    import anamnesis.pipeline.run  # noqa: F401
    from anamnesis.kernels import decoder
    from benchmarks.opened import encoding_plan_of, plan_of

    plan_it = partial(encoding_plan_of, target=target[0]) if target else plan_of
    plan = plan_it(Path(path), Path(out), threads=int(threads))
    for encoding in {t.encoding for t in plan.model.tensors} - {"copy"}:
        decoder(encoding)
    floor = Floor(plan, Path(out), int(threads))
    time.sleep(max(0.0, begin + float(startup) - time.perf_counter()))
    os.write(2, b"begun %a\n" % time.perf_counter())
    floor.run()
