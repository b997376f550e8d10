"""The I/O floor of a plan: its very reads and writes, with nothing between them.

The operations are taken from the plan before the clock starts: the same spans in the same order,
split into the same tasks, through buffers of the same sizes, by as many threads.

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
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anamnesis.kernels import Window
from anamnesis.pipeline.plan import Piece, Plan, Task
from anamnesis.readers.base import Component
from anamnesis.readers.batch import iter_windows


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
        self._tasks = [_operations(task) for task in plan.tasks]
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
        for fd in fds.values():
            os.close(fd)


def _operations(task: Task) -> list[Read | Write]:
    found: list[Read | Write] = []
    for piece in task.pieces:
        found += _of_piece(piece)
    return found


def _of_piece(piece: Piece) -> list[Read | Write]:
    step, tensor = piece.step, piece.step.tensor
    if step.slot is None:
        raise ValueError("a step without a place")
    found: list[Read | Write] = []
    whole = [c.stored for c in tensor.components if c.access.kind == "whole"]
    if tensor.encoding != "copy":
        found += [Read(s.file.path, s.offset, 0, s.nbytes) for s in whole]
    for batch in iter_windows(tensor, step.batch_units, piece.start, piece.stop):
        at = 0
        for component in tensor.components:
            reads = _reads(component, batch, at)
            at += sum(r.nbytes for r in reads)
            found += reads
        for window in iter_windows(tensor, step.window_units, batch.start, batch.stop):
            first = window.start * tensor.unit_elems
            last = min(window.stop * tensor.unit_elems, tensor.elems)
            found += [Write(*span) for span in step.slot.ranges(first, last)]
    return found


def _reads(component: Component, window: Window, at: int) -> list[Read]:
    """What `BlockReader` reads of a component for a window."""
    access, stored = component.access, component.stored
    if access.kind == "whole":
        return []
    begin = window.start * access.unit_bits // 8
    nbytes = access.span_bytes(window.stop - window.start)
    if access.kind == "rows":
        return [
            Read(stored.file.path, stored.offset + begin, at, min(nbytes, stored.nbytes - begin))
        ]
    if access.kind == "cycle":
        lines = window.stop - window.start
        first = window.start % access.period
        if lines >= access.period:
            return [Read(stored.file.path, stored.offset, at, stored.nbytes)]
        here = min(lines, access.period - first) * access.line_bytes
        again = lines * access.line_bytes - here
        begin = stored.offset + first * access.line_bytes
        found = [
            Read(stored.file.path, begin, at, here),
            Read(stored.file.path, stored.offset, at + here, again),
        ]
        return found if again else found[:1]
    matrix = component.lines * access.line_bytes
    offset = stored.offset
    if access.matrix_units:
        number, unit = divmod(window.start, access.matrix_units)
        offset, begin = offset + number * matrix, unit * access.unit_bits // 8
    if nbytes >= access.line_bytes:
        return [Read(stored.file.path, offset, at, matrix)]
    nbytes = min(nbytes, access.line_bytes - begin)
    return [
        Read(stored.file.path, offset + n * access.line_bytes + begin, at + n * nbytes, nbytes)
        for n in range(component.lines)
    ]


def main() -> None:
    """Arguments: model, output, threads, seconds from the process's start to the first write."""
    begin = float(os.environ["AMN_BENCH_BEGIN"])
    path, out, threads, startup = sys.argv[1:]
    import anamnesis.cli.main
    import anamnesis.pipeline.run  # noqa: F401
    from anamnesis.kernels import decoder
    from benchmarks.opened import plan_of

    plan = plan_of(Path(path), Path(out), int(threads))
    for encoding in {t.encoding for t in plan.model.tensors} - {"copy"}:
        decoder(encoding)
    floor = Floor(plan, Path(out), int(threads))
    time.sleep(max(0.0, begin + float(startup) - time.perf_counter()))
    os.write(2, b"begun %a\n" % time.perf_counter())
    floor.run()
