"""The bytes of an Arrow IPC file that do not depend on the values.

Sources: https://arrow.apache.org/docs/format/Columnar.html ("Encapsulated message format",
"IPC File Format") and format/Message.fbs, format/File.fbs, format/Schema.fbs of apache/arrow.

    file    = "ARROW1" 00 00, schema message, record batch messages, end of stream,
              footer, footer bytes (i32), "ARROW1"
    message = FFFFFFFF, metadata bytes (i32), metadata (a flatbuffer `Message`), padding, body

Flatbuffers (https://flatbuffers.dev/internals): a table starts with the distance back to its
vtable, a vtable is `bytes, table bytes, field places` in u16, and references count forward
from where they are stored. So a finished buffer may be put inside another one as it is: the
footer holds the schema message whole and refers to the `Schema` table in it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

ALIGN = 64  # of messages and of buffers, as the format recommends
MAGIC = b"ARROW1"
FILE_START = MAGIC + bytes(2)
END_OF_STREAM = struct.pack("<Ii", 0xFFFFFFFF, 0)
_PREFIX_BYTES = 8
_V5 = 4  # enum MetadataVersion
_RECORD_BATCH = 3  # union MessageHeader
_MESSAGE = struct.Struct("<I 6H iIqHB5x")
_BATCH = struct.Struct("<5H6x iIqI")
_FOOTER = struct.Struct("<I 6H iIIIH2x I")
_BLOCK = struct.Struct("<qi4xq")


def padded(nbytes: int) -> int:
    """`nbytes` rounded up to the alignment."""
    return -(-nbytes // ALIGN) * ALIGN


def schema_message(serialised: bytes) -> bytes:
    """The message that `pyarrow.Schema.serialize` gives, longer, so that batches are aligned."""
    metadata = serialised[_PREFIX_BYTES:]
    gap = -(len(FILE_START) + len(serialised)) % ALIGN
    return _prefix(len(metadata) + gap) + metadata + bytes(gap)


def batch_message(nodes: Sequence[int], buffers: Sequence[int]) -> bytes:
    """Prefix and metadata of a record batch without nulls.

    `nodes` are the lengths of all arrays, children after their parents; `buffers` the bytes of
    all buffers, which lie in the body one after the other, each padded.
    """
    body = sum(map(padded, buffers))
    buffers_at = 80 + 16 * len(nodes) + 4
    # 0 root; 4 vtable; 16 Message: version, header_type, header, bodyLength
    out = [_MESSAGE.pack(16, 12, 20, 16, 18, 4, 8, 12, 56 - 20, body, _V5, _RECORD_BATCH)]
    # 40 vtable; 56 RecordBatch: length, nodes, buffers
    out.append(_BATCH.pack(10, 20, 8, 4, 16, 16, 76 - 60, nodes[0], buffers_at - 72))
    out.append(struct.pack("<I", len(nodes)))
    out += [struct.pack("<qq", length, 0) for length in nodes]
    out.append(struct.pack("<4xI", len(buffers)))
    offset = 0
    for nbytes in buffers:
        out.append(struct.pack("<qq", offset, nbytes))
        offset += padded(nbytes)
    metadata = b"".join(out)
    gap = padded(_PREFIX_BYTES + len(metadata)) - _PREFIX_BYTES - len(metadata)
    return _prefix(len(metadata) + gap) + metadata + bytes(gap)


def message_bytes(nodes: int, buffers: int) -> int:
    """Bytes of a `batch_message`: they depend on the schema alone."""
    return padded(_PREFIX_BYTES + 80 + 16 * nodes + 8 + 16 * buffers)


def footer(schema: bytes, blocks: Iterable[tuple[int, int, int]]) -> tuple[bytes, bytes, bytes]:
    """What follows the last batch, in three parts; the middle one is `schema`, not a copy.

    `blocks` are the batches as (file offset, message bytes, body bytes).
    """
    packed = b"".join(_BLOCK.pack(*block) for block in blocks)
    count_at = _FOOTER.size + len(schema) + 4
    schema_at = _FOOTER.size + _PREFIX_BYTES + _schema_table(schema[_PREFIX_BYTES:])
    # 0 root; 4 vtable; 16 Footer: version, schema, dictionaries, recordBatches; 36 no dictionaries
    start = _FOOTER.pack(16, 12, 20, 16, 4, 8, 12, 12, schema_at - 20, 12, count_at - 28, _V5, 0)
    end = struct.pack("<4xI", len(packed) // _BLOCK.size) + packed
    total = len(start) + len(schema) + len(end)
    return END_OF_STREAM + start, schema, end + struct.pack("<i", total) + MAGIC


def _prefix(metadata_bytes: int) -> bytes:
    return struct.pack("<Ii", 0xFFFFFFFF, metadata_bytes)


def _schema_table(message: bytes) -> int:
    """Where the `Schema` table is in a flatbuffer `Message`; its field 2 is `header`."""
    (table,) = struct.unpack_from("<I", message, 0)
    (back,) = struct.unpack_from("<i", message, table)
    (place,) = struct.unpack_from("<H", message, table - back + 4 + 2 * 2)
    (forward,) = struct.unpack_from("<I", message, table + place)
    return int(table + place + forward)
