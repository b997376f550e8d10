"""The finished Parquet file, made from the plain one row group by row group, and read back.

One row group of values is held at a time, as stored, as the table has it, and packed. What comes
out depends on the plain file's bytes and on pyarrow's version alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

import numpy as np

from anamnesis.errors import IntegrityError
from anamnesis.limits import MiB
from anamnesis.readers.dtypes import DTYPES
from anamnesis.writers.base import OutFile, PackTarget, Slot, Source, read_all, write_all
from anamnesis.writers.finished import open_finished
from anamnesis.writers.parquet import TAIL_BYTES, ParquetSlot, schema_of, seal_of

if TYPE_CHECKING:
    import pyarrow as pa

_NAMES = ("tensor", "dtype", "scheme")
_PLACES = ("row", "col")
_SPLIT = ("f4", "f8")  # bytes of one significance together: exponents and zeros pack well
_NAN16 = 0x7C00  # exponent of binary16, all ones
_READ_BYTES = MiB


def pack(source: Source, target: PackTarget, out: OutFile, stopped: Callable[[], bool]) -> None:
    """Write the Parquet file to `target` from the plain one at `source`, both in order.

    Raises OSError, and CancelledError soon after `stopped` says so.
    """
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    schema, file = schema_of(out), _File(target)
    with parquet.ParquetWriter(file, schema, **_options(schema, out.codec)) as writer:
        for slot in out.slots:
            assert isinstance(slot, ParquetSlot)
            for group in range(slot.groups):
                if stopped():
                    raise CancelledError
                writer.write_table(pa.table(_columns(slot, group, source, schema), schema))
        file.hold()
    file.seal()


class _File(io.RawIOBase):
    """What pyarrow writes to; the footer is held until its checksum is put before it."""

    def __init__(self, target: PackTarget) -> None:
        self._target, self._at = target, 0
        self._held: bytearray | None = None

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at + len(self._held or b"")

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self._held is None:
            write_all(self._target, view, self._at)
            self._at += len(view)
        else:
            self._held += view
        return len(view)

    def hold(self) -> None:
        """All row groups are written; what comes ends with the footer."""
        self._held = bytearray()

    def seal(self) -> None:
        """Write what was held, with the checksum of the footer before it."""
        held = bytes(self._held or b"")
        length = int.from_bytes(held[-TAIL_BYTES:][:4], "little") + TAIL_BYTES
        rest, footer = held[:-length], held[-length:]
        self._held = None
        self.write(rest + seal_of(footer) + footer)
        if not isinstance(self._target, int):
            self._target.end(self._at)


class Written:
    """A Parquet file's values, read again."""

    def __init__(self, out: OutFile) -> None:
        from pyarrow import parquet  # noqa: PLC0415

        self._path = out.path
        self._raw = open_finished(out.path)
        self._file = parquet.ParquetFile(
            self._raw, memory_map=False, page_checksum_verification=True
        )
        self._held: tuple[int, Any] = (-1, None)

    def values(self, name: str, slot: Slot, start: int, stop: int) -> Iterator[memoryview]:
        """The bytes of elements `[start, stop)` of a tensor, as the tensor's own dtype has them.

        Raises IntegrityError where the file cannot be read, or holds another number of them.
        """
        assert isinstance(slot, ParquetSlot)
        while start < stop:
            group = slot.group_of(start)
            firsts = slot.firsts(group)
            begin, end = int(firsts[0]), min(int(firsts[-1]), slot.item.elems)
            data = self._group(slot, group, end - begin)
            last = min(stop, end)
            view = memoryview(data[start - begin : last - begin]).cast("B")
            for at in range(0, len(view), _READ_BYTES):
                yield view[at : at + _READ_BYTES]
            start = last

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
        self._raw.close()

    def _group(self, slot: ParquetSlot, group: int, elems: int) -> Any:
        import pyarrow as pa  # noqa: PLC0415

        number = slot.group + group
        if self._held[0] != number:
            self._held = (-1, None)
            try:
                table = self._file.read_row_group(number, [*_NAMES, *_PLACES, slot.column])
                found = table.column(slot.column).combine_chunks().flatten()
                same = _is_placed(table, slot, group)
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise IntegrityError(f"{self._path}: row group {number:,}: {error}") from error
            if len(found) != elems or found.null_count or not same:
                raise IntegrityError(
                    f"{self._path}: row group {number:,} is not as written: tensor "
                    f"{slot.item.name!r:.200}, {elems:,} values"
                )
            self._held = (number, _narrowed(_numbers(found, slot), slot))
        return self._held[1]


def _is_placed(table: pa.Table, slot: ParquetSlot, group: int) -> bool:
    """Whether the columns beside the values say what a row group is of."""
    texts, firsts = _texts(slot), slot.firsts(group)
    row, col = np.divmod(firsts[:-1], max(1, slot.columns))
    return (
        all(table[name].unique().to_pylist() == [text] for name, text in texts.items())
        and np.array_equal(table["row"].to_numpy(), row)
        and np.array_equal(table["col"].to_numpy(), col)
    )


def _texts(slot: ParquetSlot) -> dict[str, str]:
    return dict(zip(_NAMES, (slot.item.name, slot.item.dtype, slot.item.scheme), strict=True))


def _options(schema: pa.Schema, codec: str) -> dict[str, Any]:
    values = [name for name in schema.names if name.startswith("values")]
    encodings = dict.fromkeys(_PLACES, "DELTA_BINARY_PACKED")
    for name in values:
        item = schema.field(name).type.value_type
        split = str(item) in ("float", "double")
        encodings[f"{name}.list.element"] = "BYTE_STREAM_SPLIT" if split else "PLAIN"
    return {
        "compression": codec,
        "use_dictionary": list(_NAMES),
        "column_encoding": encodings,
        "write_statistics": [*_NAMES, *_PLACES],
        "write_page_checksum": True,
    }


def _columns(slot: ParquetSlot, group: int, source: Source, schema: pa.Schema) -> list[pa.Array]:
    """The arrays of one row group."""
    import pyarrow as pa  # noqa: PLC0415

    firsts = slot.firsts(group)
    begin, end = int(firsts[0]), int(firsts[-1])
    rows = len(firsts) - 1
    texts, columns = _texts(slot), max(1, slot.columns)
    arrays: list[pa.Array] = []
    for field in schema:
        if field.name in texts:
            index = pa.array(np.zeros(rows, np.int32))
            arrays.append(pa.DictionaryArray.from_arrays(index, pa.array([texts[field.name]])))
        elif field.name in _PLACES:
            row, col = np.divmod(firsts[:-1], columns)
            arrays.append(pa.array(row if field.name == "row" else col))
        elif field.name == slot.column:
            values = _widened(_read(slot, begin, end, source), slot)
            items = _array(values, field.type.value_type)
            offsets = pa.array((firsts - begin).astype(np.int32))
            arrays.append(pa.ListArray.from_arrays(offsets, items, type=field.type))
        else:
            arrays.append(pa.nulls(rows, field.type))
    return arrays


def _read(slot: ParquetSlot, begin: int, end: int, source: Source) -> Any:
    """Elements `[begin, end)` of the plain file, as numpy holds their dtype."""
    data = np.empty((end - begin) * slot.itemsize, np.uint8)
    read_all(source, data, slot.offset + begin * slot.itemsize)
    return data.view(DTYPES[slot.item.dtype].numpy)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    """An Arrow array over numpy's memory."""
    import pyarrow as pa  # noqa: PLC0415

    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _numbers(found: pa.Array, slot: ParquetSlot) -> Any:
    """Numpy's view of an array without nulls."""
    data = found.buffers()[-1]
    kind = np.dtype(f"V{slot.width}")
    view = np.frombuffer(data, kind, len(found), found.offset * slot.width)
    return view.view(np.float32 if slot.column == "values" else DTYPES[slot.item.dtype].numpy)


def _widened(values: Any, slot: ParquetSlot) -> Any:
    """BF16 bits and binary16 as float32, for the column `values`; NaN keep their bits."""
    if slot.column != "values" or slot.item.dtype == "F32":
        return values
    if slot.item.dtype == "BF16":
        wide = values.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    wide = values.astype(np.float32)
    bits = values.view(np.uint16).astype(np.uint32)
    nan = (bits & 0x7FFF) > _NAN16  # which a cast may make quiet
    wide.view(np.uint32)[nan] = ((bits & 0x8000) << 16 | 0x7F800000 | (bits & 0x3FF) << 13)[nan]
    return wide


def _narrowed(values: Any, slot: ParquetSlot) -> Any:
    """What `_widened` made, as it was."""
    if slot.column != "values" or slot.item.dtype == "F32":
        return values
    bits = values.view(np.uint32)
    if slot.item.dtype == "BF16":
        return (bits >> 16).astype(np.uint16)
    with np.errstate(invalid="ignore", over="ignore"):
        narrow = values.astype(np.float16)
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    narrow.view(np.uint16)[nan] = ((bits >> 16) & 0x8000 | _NAN16 | (bits >> 13) & 0x3FF)[nan]
    return narrow


__all__ = ["Written", "pack"]
