"""The one function that workers run: read windows, decode them, write them at their place.

A task carries spans only. It opens its files itself, holds one read buffer and one output
buffer, and returns a receipt; payload never passes through the scheduler. Every kind of job has a
subclass of `Task`, and registers what does it with `run_task.register` in the module of that class,
which a worker imports to read the task. The executors run any kind, and pass on any subclass of
`Receipt`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from importlib import import_module
from pathlib import Path

import xxhash

from anamnesis.pipeline.encoding import EncodedPiece
from anamnesis.pipeline.loss import PieceLoss
from anamnesis.pipeline.plain_file import PlainFile
from anamnesis.pipeline.plan import Piece, Task, WriteTask
from anamnesis.pipeline.small_copies import runs, write_run
from anamnesis.pipeline.small_layers import write_layers
from anamnesis.pipeline.window_parts import write_encoded
from anamnesis.pipeline.windows import Cancelled, Inputs, inputs_of
from anamnesis.pipeline.work import PackTask, PieceReceipt
from anamnesis.readers.raw import SpanCrc
from anamnesis.writers.stores import Sink, Stored, StorePath, located, store_of


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a task did: payload bytes in, what it counts for in the progress, wall seconds."""

    key: str
    read_bytes: int
    work_bytes: int
    seconds: float
    spans: tuple[SpanCrc, ...]  # of archive entries, for their CRC-32


@dataclass(frozen=True, slots=True)
class WriteReceipt(Receipt):
    """What a task wrote; `work_bytes` are bytes of values."""

    pieces: tuple[PieceReceipt, ...]
    loss: tuple[PieceLoss, ...] = ()  # of what was encoded
    stored: Stored | None = None  # where it is, in a store


@singledispatch
def run_task(task: Task, cancelled: Callable[[], bool] | None = None) -> Receipt:
    """Do a task. Raises the package's errors and OSError; Cancelled when asked to stop."""
    raise TypeError(f"{task.key}: nothing is registered that does a {type(task).__name__}")


@run_task.register
def run_write_task(task: WriteTask, cancelled: Callable[[], bool] | None = None) -> WriteReceipt:
    """Write the values of a task's pieces into its output file."""
    begin = time.perf_counter()
    pieces: list[PieceReceipt] = []
    loss: list[PieceLoss] = []
    part = located(task.part)
    part = part if isinstance(part, StorePath) else Path(task.origin, part)
    sink = store_of(part).open_part(part)
    try:
        with inputs_of(task, cancelled) as inputs:
            for run in runs(task.pieces):
                if run.nbytes:
                    pieces += write_run(run, inputs, sink)
                    continue
                if len(run.pieces) > 1:
                    pieces += write_layers(run.pieces, inputs, sink)
                    continue
                (piece,) = run.pieces
                if isinstance(piece, EncodedPiece):
                    with inputs.opened(piece.step) as windows:
                        found, lost = write_encoded(piece, windows, sink)
                    pieces += found
                    if lost is not None:
                        loss.append(lost)
                else:
                    pieces.append(_run_piece(piece, inputs, sink))
        # Bytes that come over a line leave time to write back, which else waits for the commit.
        stored = sink.finish(durable=bool(task.origin or task.ahead_bytes))
        receipt = WriteReceipt(
            task.key,
            inputs.read_bytes,
            task.work_bytes,
            time.perf_counter() - begin,
            tuple(inputs.spans),
            tuple(pieces),
            tuple(loss),
            stored,
        )
        sink.keep(task.key, lambda: _packed(receipt))
    finally:
        sink.close()
    return receipt


@run_task.register
def run_pack_task(task: PackTask, cancelled: Callable[[], bool] | None = None) -> WriteReceipt:
    """Decode and pack all of an output file, and send it as it comes out."""
    begin = time.perf_counter()
    part, out = located(task.part), task.out
    sink = store_of(part).open_pack(part)
    pack = import_module(f"anamnesis.writers.{out.packer}").pack
    try:
        with inputs_of(task, cancelled) as inputs:
            plain = PlainFile(out, task.pieces, inputs)
            pack(plain, sink, out, cancelled or _never)
            pieces = tuple(plain.receipts())
        receipt = WriteReceipt(
            task.key,
            inputs.read_bytes,
            task.work_bytes,
            time.perf_counter() - begin,
            tuple(inputs.spans),
            pieces,
            stored=sink.stored(),
        )
        sink.keep(task.key, lambda: _packed(receipt))
    finally:
        sink.close()
    return receipt


def _never() -> bool:
    return False


def _packed(receipt: WriteReceipt) -> bytes:
    packed: bytes = import_module("anamnesis.pipeline.sent").pack(receipt)
    return packed


def _run_piece(piece: Piece, inputs: Inputs, sink: Sink) -> PieceReceipt:
    tensor, slot = piece.step.tensor, piece.step.slot
    if slot is None:
        raise ValueError(f"{tensor.name}: a step without a place in a file")
    digest = xxhash.xxh3_128()
    with inputs.opened(piece.step) as windows:
        for window, _, values in windows.over(piece.start, piece.stop):
            digest.update(values)
            slot.write(sink, window.start * tensor.unit_elems, values)
    first = piece.start * tensor.unit_elems
    last = min(piece.stop * tensor.unit_elems, tensor.elems)
    return PieceReceipt(tensor.name, first, last, digest.hexdigest())


__all__ = ["Cancelled", "PieceReceipt", "Receipt", "WriteReceipt", "run_task"]
