"""The record batches of one tensor: their geometry, and what lies in them besides the values.

Buffers of a batch, in the order of the schema: indices of the dictionary `tensor`, `row`, and for
every column of values the list's validity and offsets and the items. The columns of other dtypes
are null: a bitmap and offsets, all of them zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from anamnesis.limits import MiB
from anamnesis.readers.dtypes import DTYPES
from anamnesis.writers import arrow_ipc as ipc
from anamnesis.writers.base import Item, Target, write_all

BATCH_BYTES = 16 * MiB  # of values, unless one row is longer
HEAD_BYTES = MiB  # indices, row numbers and offsets, which one write call builds in memory


@dataclass(frozen=True, slots=True)
class ArrowSlot:
    """The record batches of one tensor, from `offset` on; all but the last have `batch_rows`.

    `number` is the tensor's in the dictionary of its file, `column` that of its dtype.
    """

    rows: int
    row_bytes: int
    itemsize: int
    batch_rows: int
    column: int = 0
    columns: int = 1
    number: int = 0
    offset: int = 0

    @classmethod
    def of(cls, item: Item, column: int = 0, columns: int = 1) -> ArrowSlot:
        """The geometry of a tensor's batches; the place in a file is not known yet."""
        rows = math.prod(item.shape[:-1])
        itemsize = DTYPES[item.dtype].bits // 8
        row_bytes = (item.shape[-1] if item.shape else 1) * itemsize
        head_row_bits = 8 * (4 + 8 + 8) + (columns - 1) * (1 + 8 * 8)
        batch_rows = min(BATCH_BYTES // max(1, row_bytes), 8 * HEAD_BYTES // head_row_bits, rows)
        return cls(rows, row_bytes, itemsize, max(1, batch_rows), column, columns)

    @property
    def batches(self) -> int:
        """A tensor without rows has one batch, which shows that it exists."""
        return max(1, -(-self.rows // self.batch_rows))

    @property
    def nbytes(self) -> int:
        """All bytes of the tensor's batches in the file."""
        return self.place(self.batches - 1) - self.offset + sum(self._sizes(self.batches - 1))

    def place(self, batch: int) -> int:
        """File offset of a batch's message."""
        return self.offset + batch * sum(self._sizes(0))

    def blocks(self) -> Iterator[ipc.Block]:
        """(file offset, message bytes, body bytes) of every batch."""
        message = self._message_bytes
        for batch in range(self.batches):
            yield self.place(batch), message, sum(self._sizes(batch)) - message

    def nodes(self, batch: int) -> list[ipc.Node]:
        """Length and nulls of every array, as a batch's message has them."""
        rows = self._rows(batch)
        found = [(rows, 0), (rows, 0)]
        for column in range(self.columns):
            own = column == self.column
            found += [(rows, 0), (self._elems(rows), 0)] if own else [(rows, rows), (0, 0)]
        return found

    def buffers(self, batch: int) -> list[int]:
        """Bytes of every buffer of a batch."""
        rows = self._rows(batch)
        found = [0, 4 * rows, 0, 8 * rows]
        for column in range(self.columns):
            if column == self.column:
                found += [0, 8 * (rows + 1), 0, rows * self.row_bytes]
            else:
                found += [-(-rows // 8), 8 * (rows + 1), 0, 0]
        return found

    def head(self, batch: int) -> bytes:
        """Everything of a batch that lies before its values."""
        rows = self._rows(batch)
        before, _, _ = self._sizes(batch)
        out = bytearray(before)
        message = ipc.batch_message(self.nodes(batch), self.buffers(batch))
        out[: len(message)] = message
        at = len(message)
        np.frombuffer(out, np.int32, rows, at)[:] = self.number
        at += ipc.padded(4 * rows)
        first = batch * self.batch_rows
        np.frombuffer(out, np.int64, rows, at)[:] = np.arange(first, first + rows)
        at = before - ipc.padded(8 * (rows + 1))
        elems = self._elems(1) if rows else 0  # of absurd rows there is none
        np.frombuffer(out, np.int64, rows + 1, at)[:] = np.arange(rows + 1) * elems
        return bytes(out)

    def heads(self) -> Iterator[tuple[int, bytes]]:
        """What is known of every batch: all but its values, and what pads them."""
        for batch in range(self.batches):
            yield self.place(batch), self.head(batch)
            before, values, after = self._sizes(batch)
            if after:
                yield self.place(batch) + before + values, bytes(after)

    def write(self, fd: Target, start: int, values: Any) -> None:
        """Store `values` as the elements from `start` on, with the heads of batches they begin.

        Null columns after the values are zeros, as which the file was created.
        """
        view = memoryview(values).cast("B")
        done = 0
        for batch, within, nbytes in self._parts(start, start + len(view) // self.itemsize):
            if not within:
                write_all(fd, self.head(batch), self.place(batch))
            write_all(fd, view[done : done + nbytes], self._values(batch) + within)
            done += nbytes

    def ranges(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Where the values of elements `[start, stop)` lie."""
        for batch, within, nbytes in self._parts(start, stop):
            yield self._values(batch) + within, nbytes

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """(batch, first byte in its values, bytes) for every batch in elements `[start, stop)`."""
        at, end = start * self.itemsize, stop * self.itemsize
        full = self.batch_rows * self.row_bytes
        while at < end:
            batch, within = divmod(at, full)
            nbytes = min(end - at, full - within)
            yield batch, within, nbytes
            at += nbytes

    def _values(self, batch: int) -> int:
        """File offset of a batch's values."""
        return self.place(batch) + self._sizes(batch)[0]

    def _rows(self, batch: int) -> int:
        return min(self.batch_rows, self.rows - batch * self.batch_rows)

    def _elems(self, rows: int) -> int:
        return rows * self.row_bytes // self.itemsize

    @property
    def _message_bytes(self) -> int:
        return ipc.message_bytes(nodes=2 + 2 * self.columns, buffers=4 + 4 * self.columns)

    def _sizes(self, batch: int) -> tuple[int, int, int]:
        """Bytes of a batch before its values, of its values, and after them, all padded."""
        sizes = list(map(ipc.padded, self.buffers(batch)))
        at = 4 + 4 * self.column + 3
        return self._message_bytes + sum(sizes[:at]), sizes[at], sum(sizes[at + 1 :])
