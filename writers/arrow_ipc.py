"""The bytes of an Arrow IPC file that do not depend on the values.

Sources: https://arrow.apache.org/docs/format/Columnar.html ("Encapsulated message format",
"IPC File Format", "Compression") and format/Message.fbs, format/File.fbs, format/Schema.fbs of
apache/arrow.

    file    = "ARROW1" 00 00, schema message, dictionary message, record batch messages,
              end of stream, footer, footer bytes (i32), "ARROW1"
    message = FFFFFFFF, metadata bytes (i32), metadata (a flatbuffer `Message`), padding, body
    body    = buffers, each padded; a packed one begins with its plain length (i64; -1: not packed)

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
BLOCK_BYTES = 24
CODECS = {"lz4": 0, "zstd": 1}  # enum CompressionType; LZ4 is the frame format
PREFIX_BYTES = 8
_V5 = 4  # enum MetadataVersion
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3  # union MessageHeader
_MESSAGE = struct.Struct("<I 6H iIqHB5x")
_BATCH = struct.Struct("<5H6x iIqI")
_PACKED_BATCH = struct.Struct("<6H4x iIqII 3H2x iB7x")
_DICTIONARY = struct.Struct("<4H iI")
_FOOTER = struct.Struct("<I 6H iIIIH2x I")
_BLOCK = struct.Struct("<qi4xq")

Node = tuple[int, int]  # length, nulls
Block = tuple[int, int, int]  # file offset, message bytes, body bytes


def padded(nbytes: int) -> int:
    """`nbytes` rounded up to the alignment."""
    return -(-nbytes // ALIGN) * ALIGN


def schema_message(serialised: bytes) -> bytes:
    """The message that `pyarrow.Schema.serialize` gives, longer, so that batches are aligned."""
    metadata = serialised[PREFIX_BYTES:]
    gap = -(len(FILE_START) + len(serialised)) % ALIGN
    return _prefix(len(metadata) + gap) + metadata + bytes(gap)


def batch_message(nodes: Sequence[Node], buffers: Sequence[int], codec: str = "") -> bytes:
    """Prefix and metadata of a record batch.

    `nodes` are all arrays, children after their parents; `buffers` the bytes of all buffers, which
    lie in the body one after the other, each padded.
    """
    return _message(_RECORD_BATCH, 16, _batch(nodes, buffers, codec), buffers)


def dictionary_message(names: Sequence[str]) -> tuple[bytes, Block]:
    """A whole dictionary message of utf8 values with the id 0, and its block at offset 0."""
    texts = [name.encode() for name in names]
    ends = [0]
    for text in texts:
        ends.append(ends[-1] + len(text))
    parts = (struct.pack(f"<{len(ends)}i", *ends), b"".join(texts))
    buffers = (0, *map(len, parts))
    # 0 vtable; 8 DictionaryBatch: data; 16 its RecordBatch, the table of which is 16 further
    table = _DICTIONARY.pack(8, 8, 0, 4, 8, 16 + 16 - 12)
    table += _batch([(len(names), 0)], buffers, "")
    message = _message(_DICTIONARY_BATCH, 8, table, buffers)
    body = b"".join(part + bytes(padded(len(part)) - len(part)) for part in parts)
    return message + body, (0, len(message), len(body))


def message_bytes(nodes: int, buffers: int, codec: str = "") -> int:
    """Bytes of a `batch_message`: they depend on the schema alone."""
    head = _PACKED_BATCH.size + 4 if codec else _BATCH.size + 4
    return padded(PREFIX_BYTES + _MESSAGE.size + head + 16 * nodes + 8 + 16 * buffers)


def footer(schema: bytes, dictionary: Block, blocks: Iterable[Block]) -> tuple[bytes, bytes, bytes]:
    """What follows the last batch, in three parts; the middle one is `schema`, not a copy."""
    packed = b"".join(_BLOCK.pack(*block) for block in blocks)
    schema_at = _FOOTER.size + BLOCK_BYTES
    count_at = schema_at + len(schema) + 4
    table_at = schema_at + PREFIX_BYTES + _schema_table(schema[PREFIX_BYTES:])
    # 0 root; 4 vtable; 16 Footer: version, schema, dictionaries, recordBatches; 36 dictionaries
    start = _FOOTER.pack(16, 12, 20, 16, 4, 8, 12, 12, table_at - 20, 12, count_at - 28, _V5, 1)
    start += _BLOCK.pack(*dictionary)
    end = struct.pack("<4xI", len(packed) // BLOCK_BYTES) + packed
    total = len(start) + len(schema) + len(end)
    return END_OF_STREAM + start, schema, end + struct.pack("<i", total) + MAGIC


def _message(kind: int, table_at: int, header: bytes, buffers: Sequence[int]) -> bytes:
    """Prefix and metadata of a message whose `header` has its table at `table_at`."""
    body = sum(map(padded, buffers))
    at = _MESSAGE.size + table_at
    # 0 root; 4 vtable; 16 Message: version, header_type, header, bodyLength
    metadata = _MESSAGE.pack(16, 12, 20, 16, 18, 4, 8, 12, at - 20, body, _V5, kind) + header
    gap = padded(PREFIX_BYTES + len(metadata)) - PREFIX_BYTES - len(metadata)
    return _prefix(len(metadata) + gap) + metadata + bytes(gap)


def _batch(nodes: Sequence[Node], buffers: Sequence[int], codec: str) -> bytes:
    """A flatbuffer `RecordBatch`; its table is at 16."""
    length = nodes[0][0]
    # 0 vtable; 16 RecordBatch: length, nodes, buffers(, compression)
    if codec:
        nodes_at = _PACKED_BATCH.size
        buffers_at = nodes_at + 4 + 16 * len(nodes) + 4
        # 40 vtable; 48 BodyCompression: codec; its method is the default, by buffer
        places = (12, 24, 8, 4, 16, 20, 16, nodes_at - 20, length, buffers_at - 32, 48 - 36)
        out = [_PACKED_BATCH.pack(*places, 6, 8, 4, 8, CODECS[codec])]
    else:
        nodes_at = _BATCH.size
        buffers_at = nodes_at + 4 + 16 * len(nodes) + 4
        out = [_BATCH.pack(10, 20, 8, 4, 16, 16, nodes_at - 20, length, buffers_at - 32)]
    out.append(struct.pack("<I", len(nodes)))
    out += [struct.pack("<qq", *node) for node in nodes]
    out.append(struct.pack("<4xI", len(buffers)))
    offset = 0
    for nbytes in buffers:
        out.append(struct.pack("<qq", offset, nbytes))
        offset += padded(nbytes)
    return b"".join(out)


def _prefix(metadata_bytes: int) -> bytes:
    return struct.pack("<Ii", 0xFFFFFFFF, metadata_bytes)


def _schema_table(message: bytes) -> int:
    """Where the `Schema` table is in a flatbuffer `Message`; its field 2 is `header`."""
    (table,) = struct.unpack_from("<I", message, 0)
    (back,) = struct.unpack_from("<i", message, table)
    (place,) = struct.unpack_from("<H", message, table - back + 4 + 2 * 2)
    (forward,) = struct.unpack_from("<I", message, table + place)
    return int(table + place + forward)
