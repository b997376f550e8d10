"""The safetensors sink: one file, or a folder of shards with their index.

Layout (https://github.com/huggingface/safetensors#format): an 8-byte little-endian header
length, a JSON header padded with spaces, then the values without gaps. Wider dtypes
come first, so that every tensor is aligned to its element size, as torch needs to view it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from anamnesis.errors import FormatError, LimitError, UsageError
from anamnesis.limits import SAFETENSORS_HEADER_BYTES
from anamnesis.readers.dtypes import DTYPES
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

SUFFIX = ".safetensors"
# More than the 8 bytes that readers need: buffers lie at multiples of 16, and a copy to a place
# that is 8 bytes further in its page than the source was measured at half the speed.
_ALIGN = 64
_METADATA = {"format": "pt"}  # transformers refuses to load a file without it


@record(frozen=True, slots=True)
class RawSlot:
    """Values at `offset`, element after element."""

    offset: int
    bits: int  # an element; packed formats have less than a byte

    def write(self, fd: Target, start: int, values: Any) -> None:
        """Store `values` as the elements from `start` on, a whole number of bytes."""
        write_all(fd, values, self.offset + start * self.bits // 8)

    def ranges(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Where the values of elements `[start, stop)` lie."""
        yield self.offset + start * self.bits // 8, (stop - start) * self.bits // 8

    def heads(self) -> Iterator[tuple[int, bytes]]:
        """Nothing lies between the values."""
        return iter(())


def layout(
    items: Sequence[Item], path: PurePath, max_shard_bytes: int, storage: Storage = PLAIN
) -> Layout:
    """Lay out one file (`path` ends in `.safetensors`) or a folder of numbered shards.

    Raises UsageError for a `storage` that safetensors does not have.
    """
    if storage.compression != "none":
        raise UsageError(
            f"compression {storage.compression}: safetensors stores values as they are; it is for "
            "arrow"
        )
    for item in items:
        if item.name == "__metadata__":
            raise FormatError("a tensor named '__metadata__' cannot be stored in safetensors")
    sizes = [item.elems * DTYPES[item.dtype].bits // 8 for item in items]
    if path.suffix == SUFFIX:
        groups = [_aligned(items, range(len(items)))]
        paths = [path]
    else:
        groups = shard_groups(items, sizes, max_shard_bytes)
        groups = [_aligned(items, group) for group in groups]
        paths = [path / _shard_name(storage.stem, i, len(groups)) for i in range(len(groups))]
    places: list[tuple[int, Slot]] = [(0, RawSlot(0, 8))] * len(items)
    files = []
    for number, (group, name) in enumerate(zip(groups, paths, strict=True)):
        header = _header([(items[i], sizes[i]) for i in group], storage.metadata)
        offset = len(header)
        for i in group:
            places[i] = (number, RawSlot(offset, DTYPES[items[i].dtype].bits))
            offset += sizes[i]
        files.append(OutFile(str(name), offset, ((0, header),)))
    extras: tuple[tuple[str, bytes], ...] = ()
    if len(files) > 1:
        index = _index(items, groups, paths, sum(sizes))
        extras = ((str(path / f"{storage.stem}.safetensors.index.json"), index),)
    return Layout(tuple(files), tuple(places), tuple(i for g in groups for i in g), extras)


def check(path: Path, expected: OutFile) -> None:
    """The size and the header of a written file are what was laid out."""
    check_known(path, expected)


def _aligned(items: Sequence[Item], group: Sequence[int]) -> list[int]:
    return sorted(group, key=lambda i: -DTYPES[items[i].dtype].bits)


def _shard_name(stem: str, number: int, count: int) -> str:
    if count == 1:
        return f"{stem}.safetensors"
    return f"{stem}-{number + 1:05d}-of-{count:05d}.safetensors"


def _header(entries: Sequence[tuple[Item, int]], metadata: Sequence[tuple[str, str]] = ()) -> bytes:
    header: dict[str, Any] = {"__metadata__": {**_METADATA, **dict(metadata)}}
    offset = 0
    for item, nbytes in entries:
        header[item.name] = {
            "dtype": item.dtype,
            "shape": list(item.shape),
            "data_offsets": [offset, offset + nbytes],
        }
        offset += nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % _ALIGN)
    if len(text) > SAFETENSORS_HEADER_BYTES:
        raise LimitError(
            f"{len(entries):,} tensors need a safetensors header of {len(text):,} bytes, readers "
            f"refuse more than {SAFETENSORS_HEADER_BYTES:,}; write a folder with a smaller "
            "max_shard_size",
            limit="safetensors.header_bytes",
            need=len(text),
            have=SAFETENSORS_HEADER_BYTES,
        )
    return struct.pack("<Q", len(text)) + text


def _index(
    items: Sequence[Item], groups: Sequence[Sequence[int]], paths: Sequence[PurePath], total: int
) -> bytes:
    weight_map = {
        items[i].name: name.name for group, name in zip(groups, paths, strict=True) for i in group
    }
    index = {
        "metadata": {"total_size": total},
        "weight_map": dict(sorted(weight_map.items())),
    }
    return json.dumps(index, indent=2, ensure_ascii=False).encode() + b"\n"
