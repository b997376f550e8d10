"""The one function that workers run: read windows, decode them, write them at their place.

A task carries spans only. It opens its files itself, holds one read buffer and one output
buffer, and returns a receipt; payload never passes through the scheduler.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from anamnesis.errors import AnamnesisError, FormatError
from anamnesis.kernels import Window, decoder, preparer
from anamnesis.pipeline.plan import Piece, Step, Task
from anamnesis.readers.base import FileId
from anamnesis.readers.batch import BlockReader, iter_windows
from anamnesis.readers.source import LocalFile

_OUT = {"BF16": np.uint16, "F32": np.float32, "F16": np.float16}


class Cancelled(Exception):  # noqa: N818 - not an error
    """The run was stopped; the task ended between two windows."""


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


class Files:
    """Input files of one task, opened on first use and checked when the task ends."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[FileId, LocalFile]] = {}

    def __call__(self, wanted: FileId) -> LocalFile:
        found = self._open.get(wanted.path)
        if found is None:
            file = LocalFile(wanted.path)
            self._open[wanted.path] = (wanted, file)
            file.check_unchanged(wanted)
            return file
        return found[1]

    def check_unchanged(self) -> None:
        """Raise IntegrityError when an input is not what it was at planning time."""
        for wanted, file in self._open.values():
            file.check_unchanged(wanted)

    def close(self) -> None:
        """Close every file."""
        for _, file in self._open.values():
            file.close()
        self._open = {}


def run_task(task: Task, cancelled: Callable[[], bool] | None = None) -> Receipt:
    """Do a task. Raises the package's errors and OSError; Cancelled when asked to stop."""
    begin = time.perf_counter()
    files = Files()
    receipts = []
    read_bytes = 0
    fd = os.open(task.part, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for piece in task.pieces:
            receipt, nbytes = _run_piece(piece, files, fd, cancelled)
            receipts.append(receipt)
            read_bytes += nbytes
        files.check_unchanged()
    finally:
        os.close(fd)
        files.close()
    seconds = time.perf_counter() - begin
    return Receipt(task.key, task.file, read_bytes, task.out_bytes, seconds, tuple(receipts))


def _run_piece(
    piece: Piece, files: Files, fd: int, cancelled: Callable[[], bool] | None
) -> tuple[PieceReceipt, int]:
    step = piece.step
    tensor = step.tensor
    reader = BlockReader(tensor, files, reuse=True)
    decode = _decoder(step, reader)
    digest = xxhash.xxh3_128()
    read_bytes = 0
    for batch in iter_windows(tensor, step.batch_units, piece.start, piece.stop):
        blocks = reader.read(batch)
        read_bytes += sum(view.nbytes for view in blocks.views.values())
        for window in iter_windows(tensor, step.window_units, batch.start, batch.stop):
            if cancelled is not None and cancelled():
                raise Cancelled
            views = blocks.views if window == batch else reader.within(blocks, batch, window)
            values = decode(views, window)
            digest.update(values)
            step.slot.write(fd, window.start * tensor.unit_elems, values)
    first = piece.start * tensor.unit_elems
    last = min(piece.stop * tensor.unit_elems, tensor.elems)
    return PieceReceipt(tensor.name, first, last, digest.hexdigest()), read_bytes


def _decoder(step: Step, reader: BlockReader) -> Callable[[Any, Window], Any]:
    """A function from a window's raw views to its output values, in reused memory."""
    tensor = step.tensor
    if tensor.encoding == "copy":
        return lambda views, window: views["payload"].reshape(-1)
    decode = decoder(tensor.encoding)
    prepare = preparer(tensor.encoding)
    params = dict(tensor.params)
    if prepare is not None:
        try:
            params = prepare(tensor.params, reader.wholes()[1])
        except AnamnesisError:
            raise
        except ValueError as error:
            where = tensor.components[0].stored
            raise FormatError(f"{where.file.path}: tensor {tensor.name!r}: {error}") from error
    kind = _OUT[step.dtype]
    out = np.empty(step.window_units * tensor.unit_elems, kind)
    work = np.empty(out.shape, np.float32) if kind is np.float16 else out

    def run(views: Any, window: Window) -> Any:
        first = window.start * tensor.unit_elems
        elems = min(window.stop * tensor.unit_elems, tensor.elems) - first
        decode(views, params, window, work[:elems])
        if work is not out:
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                out[:elems] = work[:elems]
        return out[:elems]

    return run
