"""The metadata of one Arrow message: a record batch, or the dictionary of names.

Sources: https://arrow.apache.org/docs/format/Columnar.html ("Encapsulated message format") and
format/Message.fbs of apache/arrow. A message is FFFFFFFF, the bytes of its metadata (i32), the
metadata and padding; then the body, where the buffers lie.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.arrow_flatbuffer import Table

DICTIONARY_BATCH, RECORD_BATCH = 2, 3  # union MessageHeader
V5 = 4  # enum MetadataVersion
_CONTINUATION = 0xFFFFFFFF
_CODECS = {0: "lz4", 1: "zstd"}  # enum CompressionType
_PREFIX = struct.Struct("<Ii")
_PAIR = struct.Struct("<qq")
_MOST_NODES = 1_000


@dataclass(frozen=True, slots=True)
class Batch:
    """`nodes` are (length, nulls) of all arrays, `buffers` (offset in the body, bytes)."""

    rows: int
    nodes: tuple[tuple[int, int], ...]
    buffers: tuple[tuple[int, int], ...]
    codec: str = ""


def read_dictionary(data: bytes, body: int, where: str) -> tuple[int, Batch]:
    """The id and the batch of a dictionary message whose body has `body` bytes."""
    header = _header(data, body, DICTIONARY_BATCH, where)
    batch = header.table(1)
    if batch is None:
        raise FormatError(f"{where}: a dictionary without data")
    if header.number(2, "B"):
        raise UnsupportedError(f"{where}: a dictionary that continues another (delta)")
    return header.number(0, "q"), _batch(batch, body)


def read_batch(data: bytes, body: int, where: str) -> Batch:
    """The batch of a record batch message whose body has `body` bytes.

    Raises FormatError for buffers outside of the body or over one another, UnsupportedError for
    a compression that Arrow has not named.
    """
    return _batch(_header(data, body, RECORD_BATCH, where), body)


def _header(data: bytes, body: int, kind: int, where: str) -> Table:
    if len(data) < _PREFIX.size:
        raise FormatError(f"{where}: a message of {len(data)} bytes")
    mark, nbytes = _PREFIX.unpack_from(data)
    if mark != _CONTINUATION or nbytes != len(data) - _PREFIX.size:
        raise FormatError(f"{where}: no message of {len(data):,} bytes is where the footer says")
    message = Table.root(data[_PREFIX.size :], where)
    version, found = message.number(0, "h"), message.number(1, "B")
    header = message.table(2)
    if version != V5:
        raise UnsupportedError(f"{where}: metadata version {version + 1}; 5 is read")
    if found != kind or header is None:
        raise FormatError(f"{where}: message header {found} where {kind} is expected")
    if message.number(3, "q") != body:
        raise FormatError(f"{where}: bodyLength differs from the footer's")
    return header


def _batch(table: Table, body: int) -> Batch:
    where = table.where
    rows = table.number(0, "q")
    if table.count(1) > _MOST_NODES or table.count(2) > 4 * _MOST_NODES or table.count(4):
        raise FormatError(f"{where}: more arrays than the schema has")
    nodes = tuple(table.structs(1, _PAIR))
    buffers = tuple(table.structs(2, _PAIR))
    if rows < 0 or any(length < 0 or not 0 <= nulls <= length for length, nulls in nodes):
        raise FormatError(f"{where}: an array of negative length, or of more nulls than items")
    end = 0
    for offset, nbytes in buffers:
        inside = nbytes >= 0 and (end if nbytes else 0) <= offset <= body - nbytes
        if not inside or offset % 8:
            raise FormatError(
                f"{where}: buffer of {nbytes:,} bytes at {offset:,}: not inside of the body of "
                f"{body:,} bytes, not after the one before, or not aligned"
            )
        end = offset + nbytes if nbytes else end
    packed = table.table(3)
    if packed is None:
        return Batch(rows, nodes, buffers)
    codec = packed.number(0, "b")
    if codec not in _CODECS or packed.number(1, "b"):
        raise UnsupportedError(
            f"{where}: compression codec {codec}, method {packed.number(1, 'b')}; read are "
            "LZ4_FRAME and ZSTD by buffer"
        )
    return Batch(rows, nodes, buffers, _CODECS[codec])
