"""Flatbuffers from strangers: every reference is checked before it is followed.

Format: https://flatbuffers.dev/internals. A table starts with the signed distance back to its
vtable; a vtable is `bytes, table bytes, field places` in u16, a place of 0 (or none) meaning the
default. References are u32, forward from where they are stored; vectors and strings start with
their length in u32. All is little-endian and aligned to its size. Nothing is built from the
buffer but what is asked for, so that tables which refer to one another cost nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from anamnesis.errors import FormatError

_U16, _I32, _U32 = struct.Struct("<H"), struct.Struct("<i"), struct.Struct("<I")


class Table:
    """A table at `at` of `data`; `where` names the file and the part of it in errors.

    All methods raise FormatError for what is not inside of the buffer, or of the table.
    """

    __slots__ = ("_at", "_data", "_places", "_size", "where")

    def __init__(self, data: bytes, at: int, where: str) -> None:
        """Check the table's bounds and those of its vtable."""
        self._data, self._at, self.where = data, at, where
        vtable = at - self._number(_I32, at, "table")
        nbytes = self._number(_U16, vtable, "vtable")
        self._size = self._number(_U16, vtable + 2, "vtable")
        if nbytes < 4 or nbytes % 2 or vtable + nbytes > len(data):
            raise self._wrong(vtable, f"vtable of {nbytes:,} bytes")
        if self._size < 4 or at + self._size > len(data):
            raise self._wrong(at, f"table of {self._size:,} bytes")
        self._places = struct.unpack_from(f"<{nbytes // 2 - 2}H", data, vtable + 4)

    @classmethod
    def root(cls, data: bytes, where: str) -> Table:
        """The root table of a buffer."""
        if len(data) < _U32.size:
            raise FormatError(f"{where}: {len(data)} bytes are no flatbuffer")
        return cls(data, _U32.unpack_from(data)[0], where)

    def number(self, field: int, code: str, default: int = 0) -> int:
        """A scalar field; `code` is its `struct` format."""
        form = struct.Struct(f"<{code}")
        at = self._place(field, form.size)
        return default if at is None else int(form.unpack_from(self._data, at)[0])

    def table(self, field: int) -> Table | None:
        """A field that refers to a table."""
        at = self._reference(field)
        return None if at is None else Table(self._data, at, self.where)

    def text(self, field: int) -> str | None:
        """A string field."""
        raw = self.raw(field)
        try:
            return None if raw is None else raw.decode()
        except UnicodeDecodeError:
            raise FormatError(f"{self.where}: field {field}: not UTF-8") from None

    def raw(self, field: int) -> bytes | None:
        """The bytes of a string field."""
        found = self._vector(field, 1)
        return None if found is None else self._data[found[0] : found[0] + found[1]]

    def structs(self, field: int, form: struct.Struct) -> Iterator[tuple[Any, ...]]:
        """The items of a vector of structs (or scalars), none when it is absent."""
        found = self._vector(field, form.size)
        if found is None:
            return iter(())
        at, count = found
        return form.iter_unpack(memoryview(self._data)[at : at + count * form.size])

    def count(self, field: int) -> int:
        """The length of a vector, of items of a byte or more."""
        found = self._vector(field, 1)
        return 0 if found is None else found[1]

    def tables(self, field: int, most: int) -> list[Table]:
        """A vector of tables; FormatError when they are more than `most`."""
        found = self._vector(field, _U32.size)
        if found is None:
            return []
        at, count = found
        if count > most:
            raise self._wrong(at, f"{count:,} tables in field {field}, at most {most} are expected")
        places = range(at, at + count * _U32.size, _U32.size)
        return [Table(self._data, self._forward(place), self.where) for place in places]

    def _place(self, field: int, size: int) -> int | None:
        place = self._places[field] if field < len(self._places) else 0
        if not place:
            return None
        at = self._at + place
        if place < _I32.size or place + size > self._size or at % size:
            raise self._wrong(at, f"field {field} of {size} bytes at {place} of {self._size:,}")
        return at

    def _reference(self, field: int) -> int | None:
        at = self._place(field, _U32.size)
        return None if at is None else self._forward(at)

    def _forward(self, at: int) -> int:
        return at + self._number(_U32, at, "reference")

    def _vector(self, field: int, itemsize: int) -> tuple[int, int] | None:
        at = self._reference(field)
        if at is None:
            return None
        count = self._number(_U32, at, "vector")
        start = at + _U32.size
        if start + count * itemsize > len(self._data) or start % min(itemsize, 8):
            raise self._wrong(at, f"vector of {count:,} items of {itemsize} bytes")
        return start, count

    def _number(self, form: struct.Struct, at: int, what: str) -> int:
        if at < 0 or at + form.size > len(self._data) or at % form.size:
            raise self._wrong(at, what)
        return int(form.unpack_from(self._data, at)[0])

    def _wrong(self, at: int, what: str) -> FormatError:
        return FormatError(
            f"{self.where}: byte {at:,}: {what}: not inside of the {len(self._data):,} bytes of "
            "metadata, or not aligned"
        )
