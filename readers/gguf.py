"""GGUF: key/values and tensors of ggml's block types; one model may be split over many files.

Layout: `gguf_fields`; the rules for the data are those of gguf_init_from_file in
https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/gguf.cpp: offsets are multiples of the
alignment, and tensors lie one after the other, each padded to it. A gap would mean that a
tensor is larger than its type and shape say, as it is when a fork gave a type's number to
another layout, so it is refused too.
"""

from __future__ import annotations

import math
import os
from typing import NamedTuple

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers.base import Container, FileId, Stored, View
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.gguf_fields import Header, TensorInfo, read_header
from anamnesis.readers.gguf_splits import check_part, check_total, part_paths
from anamnesis.readers.gguf_types import (
    BYTE_SWAPPED,
    FP8,
    I2_S,
    Q2_0,
    GgmlType,
    ggml_type,
    q2_0_group_128,
)
from anamnesis.readers.llamafile import Inside, open_inside
from anamnesis.words import CUT_SHORT

ELEMS_LIMIT = 1 << 63


def open_gguf(path: str, limits: Limits) -> Container:
    """Parse the header of a GGUF file, or of all parts when `path` is one part of a split model.

    Stored tensors come in the order of their bytes, part after part. Metadata is the key/values
    of the first part, long arrays as `{"type", "count"}`. No payload is read. Raises
    FormatError, UnsupportedError (v1, types not read), LimitError, OSError.
    """
    given = _open_part(path, limits)
    paths = part_paths(path, given.header.metadata, limits)
    if len(paths) == 1:
        metadata = given.header.metadata
        return Container("gguf", (given.file,), given.stored, metadata, notes=_behind(given))
    parts: list[_Part] = []
    merged: dict[str, Stored] = {}
    for number, name in enumerate(paths):
        same = os.path.basename(name) == os.path.basename(path)
        part = given if same else _open_part(name, limits)
        check_part(name, number, len(paths), part.header.metadata)
        for twice in part.stored.keys() & merged.keys():
            raise FormatError(f"{name}: tensor {twice!r:.200} is also in {merged[twice].file.path}")
        merged.update(part.stored)
        limits.tensors(len(merged), f"{path}: tensors in all parts")
        parts.append(part)
    metadata = parts[0].header.metadata
    check_total(paths[0], len(merged), metadata)
    notes = tuple(note for part in parts for note in _behind(part))
    return Container("gguf", tuple(part.file for part in parts), merged, metadata, notes=notes)


class _Part(NamedTuple):
    """What was read of one file; its bytes are `size` from byte `base` on."""

    header: Header
    file: FileId
    stored: dict[str, Stored]
    base: int
    size: int


def _behind(part: _Part) -> tuple[str, ...]:
    """A remark when more follows the last tensor than its padding; llama.cpp takes no notice."""
    align = part.header.alignment
    ends = (s.offset + s.nbytes - part.base for s in part.stored.values())
    end = max(ends, default=part.header.data_start)
    left = part.size - -(-end // align) * align
    if left <= 0:
        return ()
    return (f"{part.file.path}: {left:,} bytes behind the last tensor belong to none; not read",)


def _open_part(path: str, limits: Limits) -> _Part:
    with open_inside(path, limits) as file:
        header = read_header(file, limits)
        part = _Part(header, file.id, _spans(file, header), file.base, file.size)
        _check_last(part)
        return part


def _check_last(part: _Part) -> None:
    """Refuse a type with room behind it whose number stands for larger ones in other programs."""
    last = max(part.stored.values(), key=lambda s: s.offset + s.nbytes, default=None)
    if last is None or last.dtype not in (*FP8.values(), I2_S) or not _behind(part):
        return
    what = "two bits an element: IQ4_NL_4_4, which was removed from ggml"
    if last.dtype in FP8.values():
        what = "a byte an element: FP8 in blocks with a scale, as forks of llama.cpp have it"
    raise UnsupportedError(
        f"{part.file.path}: tensor {last.name!r:.200}: {last.dtype}, with more than {what}, is not "
        "implemented"
    )


def _spans(file: Inside, header: Header) -> dict[str, Stored]:
    """The tensors in the order of their bytes; each byte of the data belongs to one of them."""
    # Those without elements share their offset with the next one, so they go before it.
    tensors = sorted(header.tensors, key=lambda info: (info.offset, 0 not in info.dims))
    kinds: dict[int, GgmlType] = {}
    for info in tensors:
        if info.type_id not in kinds:
            kinds[info.type_id] = ggml_type(info.type_id, _at(file, info.name))
    types = [kinds[info.type_id] for info in tensors]
    _settle_q2_0(file, header, tensors, types)
    spans: dict[str, Stored] = {}
    end = padded = 0
    previous = ""
    for info, kind in zip(tensors, types, strict=True):
        if info.name in spans:
            raise FormatError(f"{_at(file, info.name)}: is listed twice")
        nbytes = _nbytes(file, info, kind)
        start = header.data_start + info.offset
        if info.offset % header.alignment:
            raise FormatError(
                f"{_at(file, info.name)}: offset {info.offset:,} is no multiple of the alignment, "
                f"{header.alignment:,}"
            )
        if start + nbytes > file.size and (nbytes or info.offset > padded):
            raise FormatError(
                f"{_at(file, info.name)}: its {nbytes:,} bytes from byte {start:,} go past the end "
                f"of the file at {file.size:,}: {CUT_SHORT}"
            )
        if info.offset < end and nbytes:
            raise FormatError(
                f"{_at(file, info.name)}: offset {info.offset:,} overlaps {previous!r:.200}, which "
                f"ends at {end:,}"
            )
        if nbytes and info.offset != padded:
            raise FormatError(
                f"{_at(file, info.name)}: offset {info.offset:,} leaves a gap: {previous!r:.200} "
                f"ends at {end:,} and the next tensor belongs at {padded:,}"
            )
        if nbytes:
            end = info.offset + nbytes
            padded = -(-end // header.alignment) * header.alignment
            previous = info.name
        shape, at = info.dims[::-1], file.base + start
        view = _swapped(file, info, kind) if header.big_endian else None
        spans[info.name] = Stored(info.name, kind.name, shape, file.id, at, nbytes, view)
    return spans


def _swapped(file: Inside, info: TensorInfo, kind: GgmlType) -> View | None:
    """How a tensor of a big-endian file differs; raises UnsupportedError for other types."""
    plain = DTYPES.get(kind.name)
    if plain is not None:
        return View(swap=plain.bits // 8) if plain.bits > 8 else None
    fields = BYTE_SWAPPED.get(kind.name)
    if fields is None:
        raise UnsupportedError(
            f"{_at(file, info.name)}: {kind.name} in a big-endian file is not implemented (nor "
            "does gguf-py's gguf-convert-endian swap it); implemented are floats, integers, "
            f"{', '.join(BYTE_SWAPPED)}"
        )
    return View(swap=2, block=kind.block_bytes, fields=fields) if fields else None


def _at(file: Inside, name: str) -> str:
    """A tensor, for messages alone."""
    return f"{file.path}: tensor {name!r:.200}"


def _nbytes(file: Inside, info: TensorInfo, kind: GgmlType) -> int:
    dims = info.dims
    elems = math.prod(dims)
    row = elems if kind.tail else dims[0] if dims else 1
    if row % kind.block_elems:
        found = "its elements are" if kind.tail else "dimension 0 is"
        raise FormatError(
            f"{_at(file, info.name)}: {found} {row:,}, no multiple of the "
            f"{kind.block_elems} elements in a block of {kind.name}"
        )
    # Dimensions beside a zero must be possible too.
    if (elems or math.prod(d or 1 for d in dims)) >= ELEMS_LIMIT:
        raise FormatError(f"{_at(file, info.name)}: dimensions {list(dims)}: 2^63 elements or more")
    blocks = elems // kind.block_elems * kind.block_bytes
    if not kind.row_meta:
        return blocks + kind.tail
    return blocks + math.prod(dims[1:]) * kind.row_meta if dims else blocks


def _settle_q2_0(
    file: Inside, header: Header, tensors: list[TensorInfo], types: list[GgmlType]
) -> None:
    """Tell the two layouts of type 42 apart by the room that the tensors have.

    llama.cpp's Q2_0 has groups of 64; files of PrismML from before it use the same number for
    groups of 128. Where both fit (padding can hide the difference of a few bytes), the published
    layout is meant.
    """
    group_128 = q2_0_group_128()
    indices = [i for i, kind in enumerate(types) if kind.name == Q2_0]
    if not indices or group_128 is None:
        return
    fitting = {types[indices[0]], group_128}
    data_bytes = max(0, file.size - header.data_start)
    for i in indices:
        info = tensors[i]
        last = i + 1 == len(tensors)
        room = (data_bytes if last else tensors[i + 1].offset) - info.offset
        fitting = {k for k in fitting if _fits(info.dims, k, room, header.alignment, last)}
    if fitting == {group_128}:
        for i in indices:
            types[i] = group_128


def _fits(dims: tuple[int, ...], kind: GgmlType, room: int, alignment: int, last: bool) -> bool:
    if (dims[0] if dims else 1) % kind.block_elems:
        return False
    nbytes = math.prod(dims) // kind.block_elems * kind.block_bytes
    padded = -(-nbytes // alignment) * alignment
    # Behind the last tensor there may be no padding, or other bytes.
    return nbytes <= room if last else room == padded
