"""The Parquet sink: one file, or a folder that engines read as a dataset; for them, not for us.

A row of the table is a row of a tensor seen as a matrix of `shape[-1]` columns (a tensor of no or
one dimension is one row), cut after 262,144 elements, as `scan` cuts it:

| column | type | |
|---|---|---|
| `tensor`, `dtype`, `scheme` | dictionary of utf8 | name; `BF16`, …; what it was: `fp8-block`, … |
| `row`, `col` | int64 | of its first value; `col` is 0 but for the pieces of long rows |
| `values` | list of float32 | BF16, F16 and F32, all of which float32 holds |
| `values_f64`, `values_i64`, `values_u8`, … | list | other dtypes, where some tensor has them |
| `values_bf16` | list of uint16, or of 2 bytes | BF16 with `bf16` uint16 or extension |

A column is null in the rows of other dtypes. A row group has rows of one tensor, at most
`GROUP_BYTES` of values (but always a row). Sizes of packed pages are not known before, so values
are written one after the other into a plain file first, and `parquet_pack` makes the Parquet file
of it, row group by row group. Layout: https://github.com/apache/parquet-format. Pages have their
CRC-32, and before the footer, where readers skip bytes, stand `xxh3` and its xxh3-128.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import xxhash

from anamnesis.errors import IntegrityError, LimitError
from anamnesis.limits import MiB
from anamnesis.readers.dtypes import DTYPES
from anamnesis.writers.arrow_schema import BFLOAT16, dtypes_of, listing
from anamnesis.writers.base import (
    PLAIN,
    Item,
    Layout,
    OutFile,
    Storage,
    Target,
    shard_groups,
    write_all,
)
from anamnesis.writers.finished import open_finished

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX = ".parquet"
LONGEST = 1 << 18  # elements of a row of the table
GROUP_BYTES = 8 * MiB  # of values in a row group, as they are in the table
GROUP_ROWS = 1 << 16
# Of a file. Readers hold all that the footer says of them, which is about 1 KiB each.
MOST_GROUPS = 200_000
_MAGIC = b"PAR1"
TAIL_BYTES = 8  # the footer's length and the magic
SEAL_BYTES = 20
_FLOATS = ("BF16", "F16", "F32")  # what float32 holds


@dataclass(frozen=True, slots=True)
class ParquetSlot:
    """A tensor's values at `offset` of the plain file, and its row groups from `group` on.

    `column` is the table's for its values, `width` the bytes of one there.
    """

    item: Item
    itemsize: int
    column: str
    width: int
    offset: int = 0
    group: int = 0

    def write(self, fd: Target, start: int, values: Any) -> None:
        """Store `values` as the elements from `start` on."""
        write_all(fd, values, self.offset + start * self.itemsize)

    def ranges(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Where the values of elements `[start, stop)` lie in the plain file."""
        yield self.offset + start * self.itemsize, (stop - start) * self.itemsize

    def heads(self) -> Iterator[tuple[int, bytes]]:
        """Nothing lies between the values."""
        return iter(())

    @property
    def columns(self) -> int:
        """Elements of a row of the tensor."""
        return self.item.shape[-1] if self.item.shape else 1

    @property
    def rows(self) -> int:
        """Rows of the table; a tensor without elements has none."""
        pieces = -(-self.columns // LONGEST)
        return self.item.elems // max(1, self.columns) * pieces

    @property
    def group_rows(self) -> int:
        """Rows of a row group, of which the last may have fewer."""
        row_bytes = min(self.columns, LONGEST) * self.width
        return max(1, min(GROUP_BYTES // max(1, row_bytes), GROUP_ROWS))

    @property
    def groups(self) -> int:
        """Row groups of the tensor."""
        return -(-self.rows // self.group_rows)

    def firsts(self, group: int) -> Any:
        """Numbers of the first elements of the rows of its `group`, and of what follows: int64."""
        first = group * self.group_rows
        last = min(first + self.group_rows, self.rows)
        row, piece = np.divmod(np.arange(first, last + 1, dtype=np.int64), self._pieces)
        return row * self.columns + piece * LONGEST

    def group_of(self, elem: int) -> int:
        """The tensor's row group that holds an element."""
        row, within = divmod(elem, self.columns)
        return (row * self._pieces + within // LONGEST) // self.group_rows

    @property
    def _pieces(self) -> int:
        return max(1, -(-self.columns // LONGEST))


def layout(
    items: Sequence[Item], path: PurePath, max_shard_bytes: int, storage: Storage = PLAIN
) -> Layout:
    """Lay out one file (`path` ends in `.parquet`) or a folder of numbered parts.

    Raises UnsupportedError for a dtype that Arrow lacks, LimitError for too many row groups.
    """
    dtypes_of(items)
    slots = [_slot(item, storage.bf16) for item in items]
    if path.suffix == SUFFIX:
        groups, paths = [list(range(len(items)))], [path]
    else:
        groups = shard_groups(items, [s.item.elems * s.itemsize for s in slots], max_shard_bytes)
        names = [f"part-{i + 1:05d}-of-{len(groups):05d}{SUFFIX}" for i in range(len(groups))]
        paths = [path / name for name in names]
    text = listing(items, [slot.groups for slot in slots], groups)
    message = _schema(slots, storage.bf16, text)
    numbers = [0] * len(items)
    files = []
    for number, (group, name) in enumerate(zip(groups, paths, strict=True)):
        offset = count = packed = 0
        for i in group:
            slots[i] = replace(slots[i], offset=offset, group=count)
            numbers[i] = number
            offset += slots[i].item.elems * slots[i].itemsize
            packed += slots[i].item.elems * slots[i].width
            count += slots[i].groups
        _limit_groups(name, count)
        room = packed if storage.compression == "none" else offset
        own = tuple(slots[i] for i in group)
        out = OutFile(str(name), offset, (), own, storage.compression, "parquet_pack", message)
        files.append(replace(out, packed_bytes=room))
    places = tuple(zip(numbers, slots, strict=True))
    return Layout(tuple(files), places, tuple(i for group in groups for i in group))


def check(path: PurePath, expected: OutFile) -> None:
    """Reopen a finished file: its schema, its row groups, and the values of two of them."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    slots = [slot for slot in expected.slots if isinstance(slot, ParquetSlot)]
    wanted = sum(slot.groups for slot in slots)
    with open_finished(path) as raw:
        _check_frame(path, raw)
    try:
        with (
            open_finished(path) as raw,
            parquet.ParquetFile(raw, memory_map=False, page_checksum_verification=True) as file,
        ):
            count, rows = file.metadata.num_row_groups, file.metadata.num_rows
            schema = schema_of(expected)
            if count != wanted or rows != sum(slot.rows for slot in slots):
                raise IntegrityError(f"{path}: {count:,} row groups of {rows:,} rows")
            if not _same_list(file, schema):
                raise IntegrityError(f"{path}: another schema than was laid out")
            for group in {0, count - 1} if count else ():
                file.read_row_group(group).validate(full=True)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise IntegrityError(f"{path}: Parquet cannot be read as written: {error}") from error


def _check_frame(path: PurePath, file: IO[bytes]) -> None:
    """Hold the footer, which pages' own checksums leave out, against the one before it.

    pyarrow may end the process over a footer that was changed.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL_BYTES))
    tail = file.read()
    length = int.from_bytes(tail[:4], "little") + TAIL_BYTES
    file.seek(max(0, size - length - SEAL_BYTES))
    seal, footer = file.read(SEAL_BYTES), file.read()
    file.seek(0)
    if (file.read(4), tail[4:]) != (_MAGIC, _MAGIC) or seal != seal_of(footer):
        raise IntegrityError(f"{path}: the footer is not what was written")


def seal_of(footer: bytes) -> bytes:
    """What stands before a footer, of it, its length and the magic after it."""
    digest: bytes = xxhash.xxh3_128_digest(footer)
    return b"xxh3" + digest


def _same_list(file: Any, schema: pa.Schema) -> bool:
    """Whether columns and the list of tensors are in the footer as they were laid out."""
    key = b"anamnesis.tensors"
    listed = (file.metadata.metadata or {}).get(key)
    return bool(file.schema_arrow.equals(schema) and listed == schema.metadata[key])


def schema_of(out: OutFile) -> pa.Schema:
    """The schema of a file's table."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.ipc  # noqa: PLC0415

    return pa.ipc.read_schema(pa.py_buffer(out.schema))


def _slot(item: Item, bf16: str) -> ParquetSlot:
    itemsize = DTYPES[item.dtype].bits // 8
    if item.dtype == "BF16" and bf16 != "float32":
        return ParquetSlot(item, itemsize, "values_bf16", 2)
    if item.dtype in _FLOATS:
        return ParquetSlot(item, itemsize, "values", 4)
    kind = np.dtype(DTYPES[item.dtype].numpy)
    return ParquetSlot(item, itemsize, f"values_{kind.kind}{8 * kind.itemsize}", itemsize)


def _schema(slots: Sequence[ParquetSlot], bf16: str, tensors: str) -> bytes:
    """The schema as an IPC message; `values` is always there, so that a query finds it."""
    import pyarrow as pa  # noqa: PLC0415

    names = pa.dictionary(pa.int32(), pa.utf8())
    fields = [pa.field(name, names, nullable=False) for name in ("tensor", "dtype", "scheme")]
    fields += [pa.field(name, pa.int64(), nullable=False) for name in ("row", "col")]
    items: dict[str, pa.Field] = {"values": pa.field("element", pa.float32(), nullable=False)}
    for slot in slots:
        if slot.column not in items:
            items[slot.column] = _element(slot, bf16)
    fields += [pa.field(name, pa.list_(item)) for name, item in items.items()]
    schema = pa.schema(fields, metadata={"anamnesis.tensors": tensors})
    return bytes(schema.serialize().to_pybytes())


def _element(slot: ParquetSlot, bf16: str) -> pa.Field:
    import pyarrow as pa  # noqa: PLC0415

    if slot.column == "values_bf16" and bf16 == "extension":
        about = {"ARROW:extension:name": BFLOAT16, "ARROW:extension:metadata": ""}
        return pa.field("element", pa.binary(2), nullable=False, metadata=about)
    kind = pa.from_numpy_dtype(np.dtype(DTYPES[slot.item.dtype].numpy))
    return pa.field("element", kind, nullable=False)


def _limit_groups(path: PurePath, count: int) -> None:
    if count > MOST_GROUPS:
        raise LimitError(
            f"{path}: {count:,} row groups; the fixed limit is {MOST_GROUPS:,}: write a folder "
            "with a smaller max_shard_size, or fewer tensors",
            limit="parquet.row_groups",
            need=count,
            have=MOST_GROUPS,
        )


__all__ = ["ParquetSlot", "check", "layout", "schema_of"]
