"""ONNX: a graph as one protobuf message, its weights inside of it or in files beside it.

The message is parsed by PyPI `onnx`, which has the schema (https://github.com/onnx/onnx,
onnx/onnx.proto); 2 GiB are the most that protobuf takes, so larger models keep their weights as
*external data*: a file, an offset and a length (docs/ExternalData.md), of which nothing is read
here. For weights inside of the message the parser does not tell where they lie; they are found
again by the key, the length and the first bytes of their field, and compared whole.

What becomes of an initialiser is the business of the operators that take it; what those say of the
codes they dequantise are settings of the tensor (`onnx_nodes.py`), for the schemes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from anamnesis.errors import FormatError, SecurityError, UnsupportedError
from anamnesis.limits import NAME_BYTES, RANK, GiB, Limits
from anamnesis.readers.base import Container, FileId, Stored
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.folder import Folder, folder_of
from anamnesis.readers.onnx_graph import Flat, flatten
from anamnesis.readers.onnx_nodes import PACKED, Values, graph_of, values_of
from anamnesis.readers.source import SourceFile, open_source
from anamnesis.words import and_more, extra

_MESSAGE_BYTES = 2 * GiB  # protobuf's own limit
_ONE_BY_ONE = (2, 3, 4, 5, 6)  # integers whose field is `int32_data`
_COPIES = 2  # of the message, while it is parsed
# TensorProto.DataType, by number; those of fewer than 8 bits are packed, low bits first.
_DTYPES = {
    1: "F32",
    2: "U8",
    3: "I8",
    4: "U16",
    5: "I16",
    6: "I32",
    7: "I64",
    9: "BOOL",
    10: "F16",
    11: "F64",
    12: "U32",
    13: "U64",
    14: "C64",
    15: "C128",
    16: "BF16",
    17: "F8_E4M3",
    18: "F8_E4M3FNUZ",
    19: "F8_E5M2",
    20: "F8_E5M2FNUZ",
    24: "F8_E8M0",
}
_EXTERNAL = 1  # TensorProto.DataLocation
_KEY_START = 64  # bytes of a field that are searched for
_FALSE_STARTS = 16  # other fields that begin with the same bytes, before a search is given up
# Keys of fields of TensorProto that hold numbers as they are: the number of the field, "bytes".
_RAW, _FLOATS, _DOUBLES = 9 << 3 | 2, 4 << 3 | 2, 10 << 3 | 2
_MOST_NUMBERS = 1 << 16  # zero points, or scales, that are stored one by one
_HALVES = ("BF16", "F16")


@dataclass(slots=True)
class _Message:
    """The parsed message beside its bytes, and where the last field was found."""

    path: str
    file: FileId
    data: bytes
    folder: Folder | None
    limits: Limits
    at: int = 0
    files: dict[str, FileId] = field(default_factory=dict)  # of external data, by location
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)  # names by why
    codes: frozenset[str] = frozenset()
    zeros: frozenset[str] = frozenset()
    scales: frozenset[str] = frozenset()
    values: Values = field(default_factory=dict)


def open_onnx(path: str, limits: Limits) -> Container:
    """Parse one ONNX file; the data of its initialisers is not read, but for what lies inside.

    Constants of floats are tensors too. Raises FormatError, LimitError (a message over 2 GiB, or
    more than the memory allowed), SecurityError (external data out of the folder),
    UnsupportedError where `onnx` is not installed, OSError.
    """
    with open_source(path) as file:
        message = _read(file, limits)
    model = _parse(message)
    graph = model.graph
    flat = flatten(path, graph)
    limits.tensors(len(graph.initializer) + len(flat.inside), f"{path}: initialisers")
    about = graph_of(flat)
    message.codes, message.zeros, message.scales = about.quantised()
    stored: dict[str, Stored] = {}
    for name, tensor in _tensors(message, graph, flat):
        found = _stored(message, name, tensor)
        if found is None:
            continue
        if name in stored:
            raise FormatError(f"{path}: initialiser {name!r:.200} is in the graph twice")
        stored[name] = found
    files = (message.file, *message.files.values())
    unread = tuple(name for names in message.left_out.values() for name in names)
    notes = (*message.notes, *_notes(message))
    values = {**message.values, **values_of(path, about, stored, unread)}
    said = {str(one.key): str(one.value) for one in model.metadata_props}
    return Container("onnx", files, stored, said, values=values, notes=notes, unread=unread)


def _read(file: SourceFile, limits: Limits) -> _Message:
    where = f"{file.path}: the graph with the weights inside of it"
    limits.alloc(file.size, where, _MESSAGE_BYTES)
    limits.memory(_COPIES * file.size, where)
    data = file.read(0, file.size)
    return _Message(file.path, file.id, data, folder_of(file.path, limits.allow), limits)


def _parse(message: _Message) -> Any:
    try:
        import onnx  # noqa: PLC0415 - for such files alone
    except ImportError as error:
        raise UnsupportedError(
            f"{message.path}: reading ONNX needs its schema: {extra('onnx')}"
        ) from error
    try:
        return onnx.ModelProto.FromString(message.data)
    except Exception as error:  # protobuf's DecodeError, whatever backend it has
        raise FormatError(f"{message.path}: is no ONNX model: {error}") from error


def _tensors(message: _Message, graph: Any, flat: Flat) -> Iterator[tuple[str, Any]]:
    """Initialisers in their order, then those of inner graphs and constants of floats.

    And any constants that an operator takes which dequantises. A constant has the name of the
    output of its node.
    """
    named = message.codes | message.zeros | message.scales
    for tensor in graph.initializer:
        yield tensor.name, tensor
    if flat.sparse:
        _leave_out(message, flat.sparse, "sparse initialisers are not read")
    message.at = 0
    for name, tensor, constant in flat.inside:
        floats = DTYPES[_DTYPES.get(tensor.data_type, "U8")].kind != "int"
        if not constant or (len(tensor.dims) and floats) or name in named:
            yield name, tensor


def _stored(message: _Message, name: str, tensor: Any) -> Stored | None:
    """Where an initialiser's numbers lie; None for what cannot be told, with a note."""
    where = f"{message.path}: initialiser {name!r:.200}"
    if not isinstance(name, str):  # protobuf gives bytes for what is no UTF-8
        raise FormatError(f"{where}: its name is no UTF-8")
    message.limits.alloc(len(name.encode()), f"{where}: name", NAME_BYTES)
    dims = tuple(tensor.dims)
    if not name or len(dims) > RANK or any(dim < 0 for dim in dims):
        raise FormatError(f"{where}: dims {dims!r:.200}; allowed are {RANK} that are not negative")
    dtype, kind = _DTYPES.get(tensor.data_type), ""
    if tensor.data_type in PACKED and (name in message.codes or name in message.zeros):
        dtype, kind = "U8", PACKED[tensor.data_type]
    bits = int(kind[1:]) if kind else DTYPES[dtype or "U8"].bits
    if dtype is None or tensor.HasField("segment"):
        _leave_out(message, [name], f"data type {tensor.data_type} is not read")
        return None
    elems = math.prod(dims)
    nbytes = -(-elems * bits // 8)
    if kind:
        message.values |= {f"{name}.type": kind, f"{name}.dims": ",".join(map(str, dims))}
        dims = (nbytes,)
    if tensor.data_location == _EXTERNAL:
        file, offset = _external(message, where, tensor, nbytes)
        return Stored(name, dtype, dims, file, offset, nbytes)
    key, data = _inside(tensor, dtype)
    if (
        not data
        and nbytes
        and name in message.zeros
        and name not in message.codes
        and _enter_numbers(message, name, tensor)
    ):
        return None
    if not data and nbytes and name in message.scales and _enter_halves(message, name, tensor):
        return None
    if not data and nbytes:
        _leave_out(message, [name], "numbers that are stored one by one, not as bytes")
        return None
    if len(data) != nbytes:
        raise FormatError(f"{where}: {len(data):,} bytes; {dtype} {list(dims)} takes {nbytes:,}")
    offset = _find(message, where, key, data) if nbytes else 0
    return Stored(name, dtype, dims, message.file, offset, nbytes)


def _enter_numbers(message: _Message, name: str, tensor: Any) -> bool:
    """Enter zero points that are stored one by one; whether these are such, and few.

    Those of floats are entered where they are zero. Raises FormatError for what the data type does
    not have.
    """
    kind = message.values.get(f"{name}.type") or _DTYPES[tensor.data_type]
    count, numbers = math.prod(tensor.dims), tuple(tensor.int32_data)
    packed = tensor.data_type in PACKED
    bits = int(kind[1:]) if packed else DTYPES[kind].bits
    entries = -(-count * bits // 8) if packed else count
    if len(numbers) != entries or count > _MOST_NUMBERS:
        return False
    if kind.startswith("F"):
        if any(numbers):
            return False
        numbers = (0,) * count
    elif not packed and tensor.data_type not in _ONE_BY_ONE:
        return False
    least = -(1 << (bits - 1)) if kind.startswith("I") and not packed else 0
    most = least + (1 << (8 if packed else bits)) - 1
    wrong = next((number for number in numbers if not least <= number <= most), None)
    if wrong is not None:
        raise FormatError(
            f"{message.path}: initialiser {name!r:.200}: found {wrong}; {kind} allows {least} to "
            f"{most}"
        )
    if packed and not kind.startswith("F"):
        numbers = _unpacked(numbers, bits, kind.startswith("I"))[:count]
    message.values |= {f"{name}.numbers": numbers, f"{name}.type": kind}
    return True


def _enter_halves(message: _Message, name: str, tensor: Any) -> bool:
    """Enter scales of 16 bits that are stored one by one, as their bits; whether these are such."""
    dtype, numbers = _DTYPES[tensor.data_type], tuple(tensor.int32_data)
    if (
        dtype not in _HALVES
        or len(numbers) != math.prod(tensor.dims)
        or len(numbers) > _MOST_NUMBERS
    ):
        return False
    wrong = next((number for number in numbers if not 0 <= number < 1 << 16), None)
    if wrong is not None:
        raise FormatError(
            f"{message.path}: initialiser {name!r:.200}: found {wrong}; the bits of {dtype} are 0 "
            "to 65535"
        )
    dims = ",".join(map(str, tensor.dims))
    message.values |= {f"{name}.numbers": numbers, f"{name}.type": dtype, f"{name}.dims": dims}
    return True


def _unpacked(held: tuple[int, ...], bits: int, signed: bool) -> tuple[int, ...]:
    """Integers of fewer than eight bits, of which each number holds a byte, low bits first."""
    codes = [byte >> low & (1 << bits) - 1 for byte in held for low in range(0, 8, bits)]
    return tuple(code - (code >> bits - 1 << bits) for code in codes) if signed else tuple(codes)


def _leave_out(message: _Message, names: list[str], why: str) -> None:
    message.left_out.setdefault(why, []).extend(names)


def _notes(message: _Message) -> Iterator[str]:
    """A note for each reason to leave initialisers out; however many."""
    for why, names in message.left_out.items():
        first = f"{message.path}: initialiser {names[0]!r:.200}{and_more(len(names))}: {why}; "
        yield first + ("it was left out" if len(names) == 1 else "they were left out")


def _inside(tensor: Any, dtype: str) -> tuple[int, bytes]:
    """The key of the field that holds an initialiser's bytes, and those."""
    import numpy as np  # noqa: PLC0415 - for numbers outside of `raw_data` alone

    if tensor.raw_data:
        return _RAW, tensor.raw_data
    if dtype == "F32" and len(tensor.float_data):
        return _FLOATS, np.asarray(tensor.float_data, "<f4").tobytes()
    if dtype == "F64" and len(tensor.double_data):
        return _DOUBLES, np.asarray(tensor.double_data, "<f8").tobytes()
    return _RAW, b""


def _find(message: _Message, where: str, key: int, data: bytes) -> int:
    """Where a field of those bytes lies in the message, at best behind the last one."""
    start = bytes((key,)) + _varint(len(data)) + data[:_KEY_START]
    skip = len(start) - min(len(data), _KEY_START)
    view, wanted = memoryview(message.data), memoryview(data)
    at = message.at
    for _ in range(_FALSE_STARTS):
        at = message.data.find(start, at)
        if at < 0:
            break
        begin = at + skip
        if view[begin : begin + len(data)] == wanted:
            message.at = begin + len(data)
            return begin
        at += 1
    raise UnsupportedError(
        f"{where}: its bytes are not in one place of the file; save the model again with onnx, "
        "its weights as external data"
    )


def _varint(number: int) -> bytes:
    """As protobuf writes lengths: seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _external(message: _Message, where: str, tensor: Any, nbytes: int) -> tuple[FileId, int]:
    """The file and the offset of external data."""
    fields = {entry.key: entry.value for entry in tensor.external_data}
    if not all(isinstance(value, str) for value in fields.values()):
        raise FormatError(f"{where}: external_data: what is no UTF-8")
    location = fields.get("location", "")
    offset = _number(f"{where}: external_data: offset", fields.get("offset", "0"))
    length = _number(f"{where}: external_data: length", fields.get("length", str(nbytes)))
    if length != nbytes:
        raise FormatError(f"{where}: external_data: length: {length:,}; its shape takes {nbytes:,}")
    if message.folder is None:
        raise UnsupportedError(f"{where}: its data is in {location!r:.200}, beside a URL's chain")
    if location not in message.files:
        parts = [part for part in location.split("/") if part != "."]
        try:
            path = message.folder.join("/".join(parts))
        except SecurityError as error:
            raise SecurityError(f"{where}: its data: {error}") from error
        try:
            with open_source(path) as source:
                message.files[location] = source.id
        except FileNotFoundError as error:
            raise FormatError(f"{where}: its data is in {path}, which is missing") from error
    file = message.files[location]
    if offset + nbytes > file.size:
        raise FormatError(
            f"{where}: external_data: bytes {offset:,} to {offset + nbytes:,} of {file.path}, "
            f"which has {file.size:,}"
        )
    return file, offset


def _number(where: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise FormatError(f"{where}: {text!r:.100} is no number of bytes")
    return int(text)


__all__ = ["open_onnx"]
