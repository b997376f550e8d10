"""The one function that workers run: read windows, decode them, write them at their place.

A task carries spans only. It opens its files itself, holds one read buffer and one output
buffer, and returns a receipt; payload never passes through the scheduler. Jobs that write
nothing have tasks of their own kind, a subclass of `Task`, and register what does them with
`run_task.register` in the module of that class, which a worker imports to read the task. The
executors run any kind, and pass on any subclass of `Receipt`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch

import xxhash

from anamnesis import owned
from anamnesis.pipeline.plan import Piece, Task
from anamnesis.pipeline.windows import Cancelled, Windows
from anamnesis.readers.files import Files
from anamnesis.readers.raw import SpanCrc


@dataclass(frozen=True, slots=True)
class PieceReceipt:
    """Elements `[start, stop)` of a tensor were written; `xxh3` is the digest of their bytes."""

    tensor: str
    start: int
    stop: int
    xxh3: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a task did: payload bytes in, value bytes out, wall seconds."""

    key: str
    file: int
    read_bytes: int
    out_bytes: int
    seconds: float
    pieces: tuple[PieceReceipt, ...]
    spans: tuple[SpanCrc, ...] = ()  # of archive entries, for their CRC-32


@singledispatch
def run_task(task: Task, cancelled: Callable[[], bool] | None = None) -> Receipt:
    """Do a task. Raises the package's errors and OSError; Cancelled when asked to stop."""
    begin = time.perf_counter()
    files = Files(task.origin)
    receipts = []
    spans: list[SpanCrc] = []
    read_bytes = 0
    fd = owned.open_part(os.path.join(task.origin, task.part))
    try:
        for piece in task.pieces:
            receipt, nbytes = _run_piece(piece, files, fd, cancelled, spans)
            receipts.append(receipt)
            read_bytes += nbytes
        files.check_unchanged()
        if task.origin:
            os.fdatasync(fd)
    finally:
        os.close(fd)
        files.close()
    seconds = time.perf_counter() - begin
    return Receipt(
        task.key, task.file, read_bytes, task.out_bytes, seconds, tuple(receipts), tuple(spans)
    )


def _run_piece(
    piece: Piece,
    files: Files,
    fd: int,
    cancelled: Callable[[], bool] | None,
    spans: list[SpanCrc],
) -> tuple[PieceReceipt, int]:
    step = piece.step
    tensor, slot = step.tensor, step.slot
    if slot is None:
        raise ValueError(f"{tensor.name}: a step without a place in a file")
    windows = Windows(step, files)
    digest = xxhash.xxh3_128()
    for window, _, values in windows.over(piece.start, piece.stop, cancelled):
        digest.update(values)
        slot.write(fd, window.start * tensor.unit_elems, values)
    spans += windows.spans()
    first = piece.start * tensor.unit_elems
    last = min(piece.stop * tensor.unit_elems, tensor.elems)
    return PieceReceipt(tensor.name, first, last, digest.hexdigest()), windows.read_bytes


__all__ = ["Cancelled", "PieceReceipt", "Receipt", "run_task"]
