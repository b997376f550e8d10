"""The Arrow IPC sink: one file, or a folder that `pyarrow.dataset` reads as it is.

A row of the table is a row of a tensor seen as a matrix of `shape[-1]` columns (tensors of no
or one dimension are one row): `tensor` utf8, `row` int64, `values` large_list. Arrow has no
bfloat16: BF16 is uint16 bits, and the metadata of the field `values` names the dtype. The schema
metadata `anamnesis.tensors` lists every tensor of all files with its shape, scheme, file
(`shard`, from 1) and record batches there (`batches`, first and count).

A batch holds rows of one tensor, about 16 MiB, and never a part of a row. Its size follows from
row count, row length and name, so offsets are arithmetic, and any window goes straight to its
place. One set of files has one schema, hence one dtype; a mixture is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anamnesis.errors import IntegrityError, LimitError, UnsupportedError
from anamnesis.limits import MiB
from anamnesis.readers.dtypes import DTYPES
from anamnesis.writers import arrow_ipc as ipc
from anamnesis.writers.base import (
    Item,
    Layout,
    OutFile,
    check_known,
    shard_groups,
    write_all,
)

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX = ".arrow"
BATCH_BYTES = 16 * MiB  # of values, unless one row is longer
HEAD_BYTES = MiB  # names, row numbers and offsets, which one write call builds in memory
FIXED_BYTES = 256 * MiB  # block lists and tensors without elements, which a layout holds
_MESSAGE_BYTES = ipc.message_bytes(nodes=4, buffers=9)
_BLOCK_BYTES = 24


@dataclass(frozen=True, slots=True)
class ArrowSlot:
    """The record batches of one tensor, from `offset` on; all but the last have `batch_rows`."""

    name: str
    rows: int
    row_bytes: int
    itemsize: int
    batch_rows: int
    offset: int = 0

    @classmethod
    def of(cls, item: Item) -> ArrowSlot:
        """The geometry of a tensor's batches; the place in a file is not known yet."""
        rows = math.prod(item.shape[:-1])
        itemsize = DTYPES[item.dtype].bits // 8
        row_bytes = (item.shape[-1] if item.shape else 1) * itemsize
        head_row_bytes = len(item.name.encode()) + 4 + 8 + 8
        batch_rows = min(BATCH_BYTES // max(1, row_bytes), HEAD_BYTES // head_row_bytes, rows)
        return cls(item.name, rows, row_bytes, itemsize, max(1, batch_rows))

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

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        """(file offset, message bytes, body bytes) of every batch."""
        for batch in range(self.batches):
            head, values = self._sizes(batch)
            yield self.place(batch), _MESSAGE_BYTES, head - _MESSAGE_BYTES + values

    def head(self, batch: int) -> bytes:
        """Everything of a batch that lies before its values."""
        rows = self._rows(batch)
        name = self.name.encode()
        message = ipc.batch_message([rows, rows, rows, self._elems(rows)], self._buffers(rows))
        steps = np.arange(rows + 1, dtype=np.int64)
        parts = (
            message,
            (steps * len(name)).astype(np.int32).tobytes(),
            name * rows,
            (steps[:-1] + batch * self.batch_rows).tobytes(),
            (steps * self._elems(1)).tobytes(),
        )
        return b"".join(part + bytes(ipc.padded(len(part)) - len(part)) for part in parts)

    def heads(self) -> Iterator[tuple[int, bytes]]:
        """Metadata, names, row numbers and offsets of every batch."""
        return ((self.place(batch), self.head(batch)) for batch in range(self.batches))

    def write(self, fd: int, start: int, values: Any) -> None:
        """Store `values` as the elements from `start` on, with the heads of batches they begin."""
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

    def _buffers(self, rows: int) -> tuple[int, ...]:
        """Bytes of validity and data of `tensor`, `row`, `values` and the items of `values`."""
        names = rows * len(self.name.encode())
        return (0, 4 * (rows + 1), names, 0, 8 * rows, 0, 8 * (rows + 1), 0, rows * self.row_bytes)

    def _sizes(self, batch: int) -> tuple[int, int]:
        """Bytes of a batch before its values, and of its values, both padded."""
        *head, values = map(ipc.padded, self._buffers(self._rows(batch)))
        return _MESSAGE_BYTES + sum(head), values


def layout(items: Sequence[Item], path: Path, max_shard_bytes: int) -> Layout:
    """Lay out one file (`path` ends in `.arrow`) or a folder of numbered parts.

    Raises UnsupportedError when the items have several dtypes, or one that Arrow lacks, and
    LimitError when the bytes that are known beforehand would not fit in memory.
    """
    kind = _one_dtype(items)
    slots = [ArrowSlot.of(item) for item in items]
    _limit_fixed(slots)
    if path.suffix == SUFFIX:
        groups, paths = [list(range(len(items)))], [path]
    else:
        groups = shard_groups([s.nbytes for s in slots], range(len(items)), max_shard_bytes)
        names = [f"part-{i + 1:05d}-of-{len(groups):05d}{SUFFIX}" for i in range(len(groups))]
        paths = [path / name for name in names]
    text = _tensors(items, slots, groups)
    message = ipc.schema_message(_schema(kind, text).serialize().to_pybytes())
    numbers = [0] * len(items)
    files = []
    for number, (group, name) in enumerate(zip(groups, paths, strict=True)):
        fixed = [(0, ipc.FILE_START), (len(ipc.FILE_START), message)]
        offset = len(ipc.FILE_START) + len(message)
        for i in group:
            numbers[i] = number
            slot = slots[i] = replace(slots[i], offset=offset)
            if not slot.row_bytes or not slot.rows:  # no window will come
                fixed += slot.heads()
            offset += slot.nbytes
        for part in ipc.footer(message, (b for i in group for b in slots[i].blocks())):
            fixed.append((offset, part))
            offset += len(part)
        files.append(OutFile(str(name), offset, tuple(fixed), tuple(slots[i] for i in group)))
    places = tuple(zip(numbers, slots, strict=True))
    return Layout(tuple(files), places, tuple(i for group in groups for i in group))


def check(path: Path, expected: OutFile) -> None:
    """All bytes but the values are what was laid out, and Arrow reads the file.

    Raises IntegrityError. Values are not read.
    """
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.ipc  # noqa: PLC0415

    check_known(path, expected)
    try:
        # A map: the values of the two batches are not touched.
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            count = reader.num_record_batches
            wanted = sum(s.batches for s in expected.slots if isinstance(s, ArrowSlot))
            schema = pa.ipc.read_schema(pa.py_buffer(expected.fixed[1][1]))
            if count != wanted or not reader.schema.equals(schema, check_metadata=True):
                raise IntegrityError(f"{path}: Arrow finds another schema, or {count:,} batches")
            for batch in {0, count - 1} if count else ():
                reader.get_batch(batch).validate()
    except pa.ArrowException as error:
        raise IntegrityError(f"{path}: Arrow cannot read what was written: {error}") from error


def _one_dtype(items: Sequence[Item]) -> str:
    """The dtype of all items; BF16 when there are none."""
    names: dict[str, list[str]] = {}
    for item in items:
        names.setdefault(item.dtype, []).append(item.name)
    for dtype, tensors in names.items():
        if DTYPES[dtype].kind == "complex" or not DTYPES[dtype].numpy:
            raise UnsupportedError(
                f"{_some(tensors)}: Arrow has no type for {dtype}; write safetensors, or leave "
                "these tensors out (select.exclude)"
            )
    if len(names) > 1:
        listed = "; ".join(f"{dtype}: {_some(tensors)}" for dtype, tensors in names.items())
        raise UnsupportedError(
            f"Arrow output has one dtype for all tensors, found {listed}. Ask for one float dtype "
            "(--dtype f32, without passthrough: keep); leave integers and booleans out "
            "(select.exclude) or write safetensors"
        )
    return next(iter(names), "BF16")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _limit_fixed(slots: Sequence[ArrowSlot]) -> None:
    """Refuse block lists, and rows without elements, that would not fit in memory."""
    total = 0
    for slot in slots:
        total += slot.batches * _BLOCK_BYTES + (0 if slot.row_bytes and slot.rows else slot.nbytes)
        if total > FIXED_BYTES:
            raise LimitError(
                f"{slot.name}: {slot.rows:,} rows take the batch list and empty rows of the Arrow "
                f"output to {total:,} bytes; the fixed limit is {FIXED_BYTES:,}: write safetensors",
                limit="arrow.fixed_bytes",
                need=total,
                have=FIXED_BYTES,
            )


def _tensors(
    items: Sequence[Item], slots: Sequence[ArrowSlot], groups: Sequence[Sequence[int]]
) -> str:
    entries = []
    for number, group in enumerate(groups):
        first = 0
        for i in group:
            item, count = items[i], slots[i].batches
            entry = {
                "name": item.name,
                "shape": item.shape,
                "dtype": item.dtype,
                "scheme": item.scheme,
                "shard": number + 1,
                "batches": (first, count),
            }
            entries.append(entry)
            first += count
    return json.dumps(entries, separators=(",", ":"), ensure_ascii=False)


def _schema(dtype: str, tensors: str) -> pa.Schema:
    import pyarrow as pa  # noqa: PLC0415

    number = DTYPES[dtype]
    kind = pa.from_numpy_dtype(np.dtype("<u2" if dtype == "BF16" else number.numpy))
    item = pa.field("item", kind, nullable=False)
    return pa.schema(
        [
            pa.field("tensor", pa.utf8(), nullable=False),
            pa.field("row", pa.int64(), nullable=False),
            pa.field("values", pa.large_list(item), nullable=False, metadata={"dtype": dtype}),
        ],
        metadata={"anamnesis.tensors": tensors},
    )
