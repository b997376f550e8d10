"""Arrow IPC files that the Arrow sink of this package wrote: tensors in record batches.

Layout (https://arrow.apache.org/docs/format/Columnar.html, "IPC File Format"; File.fbs):

    bytes 0..7       "ARROW1" 00 00
    …                schema, dictionary of names, record batches; each at a multiple of 8
    …                footer, a flatbuffer: schema, and the place of every message (24 bytes each)
    last 10 bytes    i32 LE, bytes of the footer; "ARROW1"

The schema metadata `anamnesis.tensors` lists name, shape, dtype, and the batches of every tensor
(writers/arrow.py). Opening reads the footer, the names, and the metadata of every batch. Row
numbers, indices and list offsets, which lie beside the values, are held against it when the values
are read. pyarrow sees no metadata of a file here.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.limits import NAME_BYTES, Limits, MiB
from anamnesis.readers.arrow_batch import V5, Batch, read_batch, read_dictionary
from anamnesis.readers.arrow_flatbuffer import Table
from anamnesis.readers.arrow_listing import Entry, Listing, read_listing
from anamnesis.readers.arrow_schema import Columns, read_schema
from anamnesis.readers.base import Container, Rows, Run, Stored, View
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.source import SourceFile, open_source

MAGIC = b"ARROW1"
FOOTER_BYTES = 100_000_000
NAMES_BYTES = 256 * MiB
MESSAGE_BYTES = MiB  # of metadata; 64 arrays take some 3 kB
_ALIGN = 8
_KNOWN = 1_000
_TAIL = struct.Struct("<i6s")
_BLOCK = struct.Struct("<qi4xq")
Block = tuple[int, int, int]  # offset, metadata bytes, body bytes


def open_arrow(path: str, limits: Limits) -> Container:
    """Parse the metadata of one Arrow file; no values are read.

    Stored tensors come in the order of the file. Raises FormatError, UnsupportedError (other data,
    streams, byte orders), LimitError, OSError.
    """
    with open_source(path) as file:
        footer, footer_at = _footer(file, limits)
        schema = footer.table(1)
        if schema is None:
            raise FormatError(f"{path}: footer: no schema")
        columns = read_schema(schema, path)
        listing = read_listing(columns.listing, path, limits)
        dictionaries, batches = _blocks(footer, footer_at, path, limits)
        names = _names(file, dictionaries, columns, limits)
        own = _own(listing, names, path)
        stored = _stored(file, own, batches, columns, limits)
        file_id = file.id
    about = {"part": own[0].shard if own else 1, "parts": listing.parts}
    return Container("arrow", (file_id,), stored, about)


def check_parts(containers: Sequence[Container]) -> list[Container]:
    """Hold the files of one dataset against what they say of each other.

    Raises FormatError when one is missing, or of another dataset; a lone part has a note.
    """
    first = containers[0]
    parts = first.metadata["parts"]
    if len(containers) == 1:
        if parts == 1:
            return [first]
        note = (
            f"{first.files[0].path}: is part {first.metadata['part']} of {parts}; the tensors of "
            "the others are not in it"
        )
        return [replace(first, notes=(*first.notes, note))]
    seen: dict[int, str] = {}
    for container in containers:
        if container.kind != "arrow":
            continue
        path, part = container.files[0].path, container.metadata["part"]
        if container.metadata["parts"] != parts or part in seen:
            raise FormatError(f"{path}: is not of the same dataset as {first.files[0].path}")
        seen[part] = path
    missing = [part for part in range(1, parts + 1) if part not in seen]
    if missing:
        raise FormatError(f"{first.files[0].path}: part {missing[0]} of {parts} is missing")
    return list(containers)


def _footer(file: SourceFile, limits: Limits) -> tuple[Table, int]:
    path, size = file.path, file.size
    head = file.read(0, min(size, _ALIGN))
    if head[:4] == b"\xff\xff\xff\xff":
        raise UnsupportedError(f"{path}: an Arrow IPC stream; only files (with a footer) are read")
    if head[: len(MAGIC)] != MAGIC or size < _ALIGN + _TAIL.size:
        raise FormatError(f"{path}: no Arrow IPC file: starts with {head!r}, has {size:,} bytes")
    nbytes, magic = _TAIL.unpack(file.read(size - _TAIL.size, _TAIL.size))
    if magic != MAGIC:
        raise FormatError(f"{path}: does not end with ARROW1: cut short, or still being written")
    at = size - _TAIL.size - nbytes
    if nbytes <= 0 or at < _ALIGN:
        raise FormatError(f"{path}: footer: {nbytes:,} bytes, of a file of {size:,}")
    limits.alloc(nbytes, f"{path}: footer", FOOTER_BYTES)
    footer = Table.root(file.read(at, nbytes), f"{path}: footer")
    if footer.number(0, "h") != V5:
        raise UnsupportedError(f"{path}: footer: version {footer.number(0, 'h') + 1}; 5 is read")
    return footer, at


def _blocks(
    footer: Table, footer_at: int, path: str, limits: Limits
) -> tuple[list[Block], list[Block]]:
    """Where the messages are: one after the other, between the start and the footer."""
    dictionaries: list[Block] = []
    batches: list[Block] = []
    for field, found in ((2, dictionaries), (3, batches)):
        limits.items(footer.count(field), f"{path}: footer: messages")
        found += footer.structs(field, _BLOCK)
    end = _ALIGN
    for offset, metadata, body in (*dictionaries, *batches):
        if offset < end or offset % _ALIGN or metadata <= 0 or body < 0:
            raise FormatError(
                f"{path}: footer: message of {metadata:,} + {body:,} bytes at {offset:,}: not "
                "aligned, or not after the one before"
            )
        end = offset + metadata + body
        if end > footer_at:
            raise FormatError(
                f"{path}: footer: message at {offset:,} ends at {end:,}, in the footer"
            )
        limits.alloc(metadata, f"{path}: message at {offset:,}", MESSAGE_BYTES)
    return dictionaries, batches


def _names(
    file: SourceFile, blocks: Sequence[Block], columns: Columns, limits: Limits
) -> list[str]:
    """The names in the file's dictionary."""
    where = f"{file.path}: dictionary of names"
    if len(blocks) != 1:
        raise FormatError(f"{where}: {len(blocks):,} of them; there must be one")
    offset, metadata, body = blocks[0]
    number, batch = read_dictionary(file.read(offset, metadata), body, where)
    if number != columns.dictionary:
        raise FormatError(f"{where}: id {number}, the schema's is {columns.dictionary}")
    if batch.codec:
        raise UnsupportedError(f"{where}: compressed; this program does not compress it")
    limits.items(batch.rows, where)
    limits.alloc(body, where, NAMES_BYTES)
    if batch.nodes != ((batch.rows, 0),) or len(batch.buffers) != 3:
        raise FormatError(f"{where}: must be one array of texts without nulls")
    (at, nbytes), (data_at, data_bytes) = batch.buffers[1:]
    if nbytes != 4 * (batch.rows + 1):
        raise FormatError(f"{where}: {nbytes:,} bytes of offsets for {batch.rows:,} names")
    raw = file.read(offset + metadata + at, nbytes)
    ends = struct.unpack(f"<{batch.rows + 1}i", raw)
    data = file.read(offset + metadata + data_at, data_bytes)
    if ends[0] or ends[-1] != len(data) or any(a > b for a, b in pairwise(ends)):
        raise FormatError(f"{where}: offsets that do not ascend from 0 to {len(data):,}")
    try:
        return [data[a:b].decode() for a, b in pairwise(ends)]
    except UnicodeDecodeError:
        raise FormatError(f"{where}: not UTF-8") from None


def _own(listing: Listing, names: Sequence[str], path: str) -> Sequence[Entry]:
    """The entries of the tensors in this file; the dictionary tells which file it is."""
    where = f"{path}: dictionary of names"
    if not names:
        if listing.shards:
            raise FormatError(f"{where}: is empty, anamnesis.tensors is not")
        return []
    own = listing.shards.get(listing.shard_of.get(names[0], 0), [])
    if [entry.name for entry in own] != list(names):
        raise FormatError(f"{where}: differs from the names that anamnesis.tensors has for a file")
    return own


def _stored(
    file: SourceFile,
    entries: Sequence[Entry],
    blocks: Sequence[Block],
    columns: Columns,
    limits: Limits,
) -> dict[str, Stored]:
    """Every tensor with the place of its values."""
    stored: dict[str, Stored] = {}
    known: dict[tuple[bytes, int], Batch] = {}  # most batches are alike
    first = nbytes = 0
    packed = False
    for number, entry in enumerate(entries):
        where = f"{file.path}: tensor {entry.name!r:.200}"
        if len(entry.name.encode()) > NAME_BYTES:
            limits.alloc(len(entry.name.encode()), f"{where}: name", NAME_BYTES)
        if entry.dtype not in columns.dtypes:
            raise FormatError(f"{where}: dtype: no column of {entry.dtype}")
        if entry.first != first or entry.count < 1 or first + entry.count > len(blocks):
            raise FormatError(
                f"{where}: batches: {entry.first:,}, {entry.count:,} in anamnesis.tensors"
            )
        itemsize = DTYPES[entry.dtype].bits // 8
        row_bytes = entry.width * itemsize
        runs = []
        row = 0
        for offset, metadata, body in blocks[first : first + entry.count]:
            data = file.read(offset, metadata)
            batch = known.get((data, body))
            if batch is None:
                batch = known[data, body] = read_batch(data, body, f"{where}: batch at {offset:,}")
            run = _run(batch, offset + metadata, row, entry, columns.dtypes, where)
            runs.append(run)
            packed = packed or bool(run.codec)
            row += run.rows
        if row != entry.rows:
            raise FormatError(f"{where}: shape: {entry.rows:,} rows, its batches have {row:,}")
        first += entry.count
        view = View(rows=Rows(number, entry.width, row_bytes, tuple(runs)))
        at = runs[0].buffers[3][0]
        size = row * row_bytes
        nbytes += size
        stored[entry.name] = Stored(entry.name, entry.dtype, entry.shape, file.id, at, size, view)
        if len(known) > _KNOWN:
            known.clear()
    if first != len(blocks):
        raise FormatError(f"{file.path}: footer: {len(blocks) - first:,} batches of no tensor")
    if packed:
        limits.expansion(nbytes, file.size, f"{file.path}: values")
    return stored


def _run(
    batch: Batch,
    body: int,
    row: int,
    entry: Entry,
    dtypes: Sequence[str],
    where: str,
) -> Run:
    """Where a batch of a tensor has what; it holds `batch.rows` rows and nothing else."""
    rows, width, column = batch.rows, entry.width, dtypes.index(entry.dtype)
    nodes = [(rows, 0), (rows, 0)]
    for number in range(len(dtypes)):
        nodes += [(rows, 0), (rows * width, 0)] if number == column else [(rows, rows), (0, 0)]
    if batch.nodes != tuple(nodes) or len(batch.buffers) != 4 + 4 * len(dtypes):
        raise FormatError(
            f"{where}: a batch at {body:,} holds something else than {rows:,} rows of {width:,} "
            "elements, or nulls"
        )
    at = 4 + 4 * column
    buffers = [batch.buffers[i] for i in (1, 3, at + 1, at + 3)]
    sizes = (4 * rows, 8 * rows, 8 * (rows + 1), rows * width * DTYPES[entry.dtype].bits // 8)
    for (_, found), size in zip(buffers, sizes, strict=True):
        whole = found >= 8 if batch.codec and size else found == size
        if not whole and (rows or found):  # without rows there may be no offset at all
            raise FormatError(f"{where}: a buffer of {found:,} bytes at {body:,}; {size:,} needed")
    return Run(row, rows, tuple((body + offset, n) for offset, n in buffers), batch.codec)
