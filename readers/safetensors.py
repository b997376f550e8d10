"""safetensors: one JSON header, then the tensors' bytes without holes.

Layout and rules: https://github.com/huggingface/safetensors (README, "Format"; `Metadata::validate`
in safetensors/src/tensor.rs):

    bytes 0..7        u64 LE      N, bytes of the header, at most 100,000,000
    bytes 8..8+N      JSON object name -> {"dtype", "shape", "data_offsets": [begin, end]}
    bytes 8+N..       data        offsets count from here, and cover it without hole or overlap

Names are unique and the optional `__metadata__` maps strings to strings. `shape` is in elements
also for types under a byte (F4, F6), which is not the shape that torch shows for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.limits import NAME_BYTES, RANK, SAFETENSORS_HEADER_BYTES, Limits
from anamnesis.readers import strict_json
from anamnesis.readers.base import Container, FileId, Stored
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.impostors import HEAD_BYTES, recognise
from anamnesis.readers.source import SourceFile, open_source
from anamnesis.words import CUT_SHORT

LENGTH_BYTES = 8
DIMENSION_LIMIT = 1 << 63
METADATA = "__metadata__"
_FIELDS = frozenset(("dtype", "shape", "data_offsets"))
# Number formats that other tools have names for; seen and refused, rather than "unknown".
_UNSUPPORTED = frozenset(
    ("C32", "F4_E2M1", "F8_E3M4", "F8_E4M3B11FNUZ", "I1", "I2", "I4", "U1", "U2", "U4")
)


def open_safetensors(path: str, limits: Limits) -> Container:
    """Parse the header of one safetensors file; no payload is read.

    Stored tensors come in the order of their bytes; metadata is the `__metadata__` object.
    Raises FormatError, UnsupportedError (a real dtype that is not converted), LimitError, OSError.
    """
    with open_source(path) as file:
        header = _read_header(file, limits)
        file_id = file.id
    data_start = LENGTH_BYTES + len(header)
    limits.tensors(header.count(b'"data_offsets"'), f"{path}: tensors")
    table = strict_json.loads(header, f"{path}: header", limits)
    del header
    if type(table) is not dict:
        raise FormatError(f"{path}: header: must be a JSON object, found {_show(table)}")
    metadata = _metadata(path, table.pop(METADATA, {}))
    limits.tensors(len(table), f"{path}: tensors")
    spans = list(_entries(file_id, table, data_start, limits))
    spans.reverse()  # tensors without bytes have no order but the header's
    spans.sort(key=_position)
    _check_cover(file_id, spans, data_start)
    return Container("safetensors", (file_id,), {s.name: s for s in spans}, metadata)


def _read_header(file: SourceFile, limits: Limits) -> bytearray:
    path, size = file.path, file.size
    if size < LENGTH_BYTES:
        raise FormatError(f"{path}: has {size} bytes, fewer than the header length takes")
    head = file.read(0, min(size, HEAD_BYTES))
    nbytes = int.from_bytes(head[:LENGTH_BYTES], "little")
    if head[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
        other = recognise(path, head, "safetensors and GGUF")
        if other:
            raise other
    if nbytes == 0:
        raise FormatError(f"{path}: header length (bytes 0..7): 0; at least {{}} is needed")
    limits.alloc(nbytes, f"{path}: header length (bytes 0..7)", SAFETENSORS_HEADER_BYTES)
    if nbytes > size - LENGTH_BYTES:
        raise FormatError(
            f"{path}: header length (bytes 0..7): {nbytes:,}, but only {size - LENGTH_BYTES:,} "
            "bytes follow; the file is cut short or is no safetensors"
        )
    header = bytearray(nbytes)
    file.read_into(LENGTH_BYTES, header)
    return header


def _metadata(path: str, value: Any) -> dict[str, str]:
    if type(value) is not dict:
        raise FormatError(f"{path}: {METADATA}: must be an object, found {_show(value)}")
    for key, text in value.items():
        if type(text) is not str:
            raise FormatError(
                f"{path}: {METADATA}[{key!r:.200}]: must be a string, found {_show(text)}"
            )
    return value


def _entries(
    file: FileId, table: dict[str, Any], data_start: int, limits: Limits
) -> Iterator[Stored]:
    """The tensors that the header lists, last first; empties `table` as it goes."""
    available = file.size - data_start
    while table:
        name, entry = table.popitem()
        if len(name) > NAME_BYTES // 4:
            limits.alloc(len(name.encode()), f"{_at(file, name)}: name", NAME_BYTES)
        if type(entry) is not dict or entry.keys() != _FIELDS:
            raise FormatError(f"{_at(file, name)}: {_why_no_entry(entry)}")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        row = DTYPES.get(dtype) if type(dtype) is str else None
        if row is None:
            raise _dtype_error(_at(file, name), dtype)
        elems, wrong = _elems(shape)
        if wrong:
            if type(shape) is list and len(shape) > RANK:
                limits.items(len(shape), f"{_at(file, name)}: shape: rank", RANK)
            raise FormatError(f"{_at(file, name)}: shape: {wrong}")
        bits = row.bits * elems
        begin, end = _offsets(offsets)
        if not 0 <= begin <= end:
            found = f"must be [begin, end], found {_show(offsets)}"
            raise FormatError(f"{_at(file, name)}: data_offsets: {found}")
        if bits % 8:
            raise FormatError(
                f"{_at(file, name)}: shape: {dtype} {shape} ends inside a byte ({bits:,} bits)"
            )
        if end - begin != bits // 8:
            raise FormatError(
                f"{_at(file, name)}: data_offsets: [{begin:,}, {end:,}] span {end - begin:,} "
                f"bytes, but {dtype} {_show(shape)} takes {bits // 8:,}"
            )
        if end > available:
            raise FormatError(
                f"{_at(file, name)}: data_offsets: end {end:,} is past the end of the file's data "
                f"({available:,} bytes): {CUT_SHORT}"
            )
        yield Stored(name, dtype, tuple(shape), file, data_start + begin, end - begin)


def _at(file: FileId, name: str) -> str:
    """A tensor, for messages alone: there may be a million of them."""
    return f"{file.path}: tensor {name!r:.200}"


def _elems(shape: Any) -> tuple[int, str]:
    """How many elements a shape has, and what is wrong with it."""
    if type(shape) is not list:
        return 0, f"must be a list, found {_show(shape)}"
    if len(shape) > RANK:
        return 0, f"rank {len(shape):,}"
    elems = 1
    extent = 1  # of the dimensions that are not zero: absurd ones are refused beside a zero too
    for dimension in shape:
        if type(dimension) is not int or not 0 <= dimension < DIMENSION_LIMIT:
            return 0, f"{_show(dimension)} is no dimension"
        elems *= dimension
        extent *= dimension or 1
    if extent >= DIMENSION_LIMIT:
        return 0, f"{_show(shape)} has 2^63 elements or more"
    return elems, ""


def _offsets(offsets: Any) -> tuple[int, int]:
    """Where a tensor begins and ends; (0, -1) for what is no pair of integers."""
    if type(offsets) is list and len(offsets) == 2:
        begin, end = offsets
        if type(begin) is int and type(end) is int:
            return begin, end
    return 0, -1


def _why_no_entry(entry: Any) -> str:
    if type(entry) is not dict:
        return f"must be an object with dtype, shape and data_offsets, found {_show(entry)}"
    missing = [field for field in ("dtype", "shape", "data_offsets") if field not in entry]
    if missing:
        return f"{missing[0]}: missing"
    return f"unknown field {min(entry.keys() - _FIELDS)!r:.200}"


def _dtype_error(where: str, dtype: Any) -> FormatError | UnsupportedError:
    known = ", ".join(sorted(DTYPES))
    if type(dtype) is str and dtype in _UNSUPPORTED:
        return UnsupportedError(f"{where}: dtype: {dtype} is not converted; these are: {known}")
    return FormatError(f"{where}: dtype: {_show(dtype)} is none of {known}")


def _position(stored: Stored) -> tuple[int, int]:
    return stored.offset, stored.nbytes


def _check_cover(file: FileId, spans: list[Stored], data_start: int) -> None:
    """Every byte of the data belongs to exactly one tensor."""
    covered = data_start
    previous: Stored | None = None
    for span in spans:
        if span.offset != covered:
            where = f"{file.path}: tensor {span.name!r:.200}: data_offsets: begin"
            begin, end = span.offset - data_start, covered - data_start
            if previous is not None and begin < end:
                raise FormatError(
                    f"{where} {begin:,} overlaps {previous.name!r:.200}, which ends at {end:,}"
                )
            raise FormatError(f"{where} {begin:,} leaves a hole: the bytes before end at {end:,}")
        covered += span.nbytes
        previous = span
    if covered != file.size:
        raise FormatError(
            f"{file.path}: {file.size - covered:,} bytes after the last tensor, which ends at byte "
            f"{covered:,} of {file.size:,}"
        )


def _show(value: Any) -> str:
    """A value from the file for a message, cut to a readable length."""
    if type(value) is list and len(value) <= 8 and not any(type(v) in (list, dict) for v in value):
        return "[" + ", ".join(map(_show, value)) + "]"
    if type(value) in (list, dict):
        return f"{'an object' if type(value) is dict else 'a list'} of {len(value):,}"
    if type(value) is int and value.bit_length() > 128:
        return f"an integer of {value.bit_length():,} bits"
    return f"{value!r:.80}"
