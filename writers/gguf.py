"""The GGUF sink: one file, or numbered splits of it.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3, little-endian: magic,
version, counts, key/values, the tensors' names, shapes, types and offsets, padding, and the data,
each tensor at a multiple of the alignment. Splits are named `NAME-00001-of-00002.gguf`; the first
has the key/values, and every one `split.no`, `split.count` and `split.tensors.count`
(https://github.com/ggml-org/llama.cpp, tools/gguf-split).

An item's dtype is that of safetensors (F32, F16, BF16, I32, …) or ggml's of a quantised type
(Q4_K, …), whose blocks lie along the last dimension.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from anamnesis.errors import FormatError, UnsupportedError, UsageError
from anamnesis.readers.gguf_types import GgmlType, KeyValue, type_named
from anamnesis.record import record
from anamnesis.writers.base import (
    PLAIN,
    Item,
    Layout,
    OutFile,
    Slot,
    Storage,
    Target,
    check_known,
    shard_groups,
    write_all,
)
from anamnesis.writers.gguf_values import alignment_of, encode, unpack

SUFFIX = ".gguf"
MAX_DIMENSIONS = 4
_HEAD = struct.Struct("<4sIQQ")
_UINT16, _INT32 = 2, 5


@record(frozen=True, slots=True)
class BlockSlot:
    """Values at `offset`, blocks of `block_elems` elements in `block_bytes` bytes each."""

    offset: int
    block_elems: int
    block_bytes: int

    def write(self, fd: Target, start: int, values: Any) -> None:
        """Store `values`, a whole number of blocks as bytes, as the elements from `start` on."""
        write_all(fd, values, self.offset + self._bytes(start))

    def ranges(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Where the blocks of elements `[start, stop)` lie."""
        yield self.offset + self._bytes(start), self._bytes(stop) - self._bytes(start)

    def heads(self) -> Iterator[tuple[int, bytes]]:
        """Nothing lies between the values."""
        return iter(())

    def _bytes(self, elems: int) -> int:
        return elems // self.block_elems * self.block_bytes


def layout(
    items: Sequence[Item], path: PurePath, max_shard_bytes: int, storage: Storage = PLAIN
) -> Layout:
    """Lay out one file (`path` ends in `.gguf`, or is a folder), or splits of it.

    A split has at most `max_shard_bytes` of data.
    `storage.key_values` are the key/values, packed (`gguf_values.pack`). Raises UsageError for a
    `storage` that GGUF does not have, UnsupportedError for dtypes or ranks that it does not have.
    """
    if storage.compression != "none":
        raise UsageError(
            f"compression {storage.compression}: GGUF stores values as they are; it is for arrow"
        )
    types = [_type(item) for item in items]
    sizes = [
        item.elems // kind.block_elems * kind.block_bytes
        for item, (_, kind) in zip(items, types, strict=True)
    ]
    count, values = unpack(storage.key_values)
    align = alignment_of(values, count)
    padded = [size + -size % align for size in sizes]
    groups = shard_groups(items, padded, max_shard_bytes)
    if path.suffix != SUFFIX:
        path /= storage.stem + SUFFIX
    paths = [path]
    if len(groups) > 1:
        stem = path.name.removesuffix(SUFFIX)
        paths = [
            path.with_name(f"{stem}-{number + 1:05d}-of-{len(groups):05d}{SUFFIX}")
            for number in range(len(groups))
        ]
    places: list[tuple[int, Slot]] = [(0, BlockSlot(0, 1, 1))] * len(items)
    files = []
    for number, (group, name) in enumerate(zip(groups, paths, strict=True)):
        own_count, own = (count, values) if number == 0 else (0, b"")
        vectors = storage.generated if number == 0 else ()
        if len(groups) > 1:
            total = len(items) + len(storage.generated)
            own_count, own = own_count + 3, own + _split(number, len(groups), total)
        offsets = {}
        at = 0
        for i in group:
            offsets[i] = at
            at += padded[i]
        header = _HEAD.pack(b"GGUF", 3, len(group) + len(vectors), own_count) + own
        header += b"".join(_info(items[i], types[i][0], offsets[i]) for i in group)
        known: list[tuple[int, bytes]] = []
        for vector, numbers in vectors:
            item = Item(vector, (len(numbers),), "F32", len(numbers))
            header += _info(item, 0, at)
            known.append((at, struct.pack(f"<{len(numbers)}f", *numbers)))
            at += 4 * len(numbers) + -4 * len(numbers) % align
        header += b"\0" * (-len(header) % align)
        fixed = [(len(header) + offset, data) for offset, data in known]
        for i in group:
            kind = types[i][1]
            slot = BlockSlot(len(header) + offsets[i], kind.block_elems, kind.block_bytes)
            places[i] = (number, slot)
        files.append(OutFile(str(name), len(header) + at, ((0, header), *fixed)))
    return Layout(tuple(files), tuple(places), tuple(i for g in groups for i in g))


def check(path: Path, expected: OutFile) -> None:
    """The size and the header of a written file are what was laid out."""
    check_known(path, expected)


def _split(number: int, count: int, tensors: int) -> bytes:
    return encode(
        {
            "split.no": KeyValue(_UINT16, number),
            "split.count": KeyValue(_UINT16, count),
            "split.tensors.count": KeyValue(_INT32, tensors),
        }
    )


def _type(item: Item) -> tuple[int, GgmlType]:
    found = type_named(item.dtype)
    if found is None:
        raise UnsupportedError(f"{item.name}: GGUF has no tensors of {item.dtype}")
    if len(item.shape) > MAX_DIMENSIONS:
        raise UnsupportedError(
            f"{item.name}: {len(item.shape)} dimensions; a GGUF tensor has at most {MAX_DIMENSIONS}"
        )
    kind = found[1]
    last = item.shape[-1] if item.shape else 1
    if last % kind.block_elems or item.elems != math.prod(item.shape):
        raise FormatError(
            f"{item.name}: rows of {last:,} elements are no whole blocks of {kind.block_elems} of "
            f"{item.dtype}"
        )
    return found


def _info(item: Item, type_id: int, offset: int) -> bytes:
    name = item.name.encode()
    dims = item.shape[::-1]
    return struct.pack(
        f"<Q{len(name)}sI{len(dims)}QIQ", len(name), name, len(dims), *dims, type_id, offset
    )
