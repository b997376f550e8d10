"""ONNX: a graph as one protobuf message, its weights inside of it or in files beside it.

The message is parsed by PyPI `onnx`, which has the schema (https://github.com/onnx/onnx,
onnx/onnx.proto); 2 GiB are the most that protobuf takes, so larger models keep their weights as
*external data*: a file, an offset and a length (docs/ExternalData.md), of which nothing is read
here. For weights inside of the message the parser does not tell where they lie; they are found
again by the key, the length and the first bytes of their field, and compared whole.

What becomes of an initialiser is the business of the operators that take it. The attributes of
those that quantise are settings of the tensor (`Container.values`), for the schemes: `NAME.op`, and
for `MatMulNBits` also `NAME.K`, `NAME.N`, `NAME.bits`, `NAME.block_size`, `NAME.scales` and such.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.limits import NAME_BYTES, RANK, GiB, Limits
from anamnesis.readers.base import Container, FileId, Stored
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.folder import Folder, folder_of
from anamnesis.readers.source import SourceFile, open_source

_MESSAGE_BYTES = 2 * GiB  # protobuf's own limit
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
# Operators whose integers, or numbers under 16 bits, mean something else than themselves.
_QUANTISED = frozenset(
    "ConvInteger DequantizeLinear DynamicQuantizeLSTM DynamicQuantizeMatMul GatherBlockQuantized "
    "MatMulBnb4 MatMulFpQ4 MatMulInteger MatMulIntegerToFloat MatMulNBits MoE QAttention QGemm "
    "QLinearAdd QLinearConv QLinearMatMul QMoE QOrderedMatMul".split()
)
_NBITS_INPUTS = ("scales", "zero_points", "g_idx")  # those of MatMulNBits behind A and B
_NBITS_NUMBERS = ("K", "N", "bits", "block_size")


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
    unread: list[str] = field(default_factory=list)


def open_onnx(path: str, limits: Limits) -> Container:
    """Parse one ONNX file; the data of its initialisers is not read, but for what lies inside.

    Constants of floats are tensors too. Raises FormatError, LimitError (a message over 2 GiB, or
    more than the memory allowed), SecurityError (external data out of the folder),
    UnsupportedError where `onnx` is not installed, OSError.
    """
    with open_source(path) as file:
        message = _read(file, limits)
    graph = _parse(message).graph
    limits.tensors(len(graph.initializer), f"{path}: initialisers")
    stored: dict[str, Stored] = {}
    for name, tensor in _tensors(message, graph):
        found = _stored(message, name, tensor)
        if found is None:
            continue
        if name in stored:
            raise FormatError(f"{path}: initialiser {name!r:.200} is in the graph twice")
        stored[name] = found
    files = (message.file, *message.files.values())
    values = _values(message, graph, stored)
    notes, unread = tuple(message.notes), tuple(message.unread)
    return Container("onnx", files, stored, values=values, notes=notes, unread=unread)


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
            f"{message.path}: reading ONNX needs its schema: pip install 'anamnesis-arrow[onnx]'"
        ) from error
    try:
        return onnx.ModelProto.FromString(message.data)
    except Exception as error:  # protobuf's DecodeError, whatever backend it has
        raise FormatError(f"{message.path}: is no ONNX model: {error}") from error


def _tensors(message: _Message, graph: Any) -> Iterator[tuple[str, Any]]:
    """Initialisers in their order, then constants of floats under the name of their output."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    if len(graph.sparse_initializer):
        names = [tensor.values.name for tensor in graph.sparse_initializer]
        _leave_out(message, names, "sparse initialisers are not read")
    message.at = 0
    inner = 0
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                tensor = attribute.t
                if len(tensor.dims) and DTYPES[_DTYPES.get(tensor.data_type, "U8")].kind != "int":
                    yield node.output[0] if len(node.output) else tensor.name, tensor
            if attribute.HasField("g"):
                inner += len(attribute.g.initializer)
            inner += sum(len(graph.initializer) for graph in attribute.graphs)
    if inner:
        message.notes.append(
            f"{message.path}: {inner} initialisers of graphs inside the graph (branches, loops) "
            "were left out"
        )


def _stored(message: _Message, name: str, tensor: Any) -> Stored | None:
    """Where an initialiser's numbers lie; None for what cannot be told, with a note."""
    where = f"{message.path}: initialiser {name!r:.200}"
    message.limits.alloc(len(name.encode()), f"{where}: name", NAME_BYTES)
    dims = tuple(tensor.dims)
    if not name or len(dims) > RANK or any(dim < 0 for dim in dims):
        raise FormatError(f"{where}: dims {dims!r:.200}; allowed are {RANK} that are not negative")
    dtype = _DTYPES.get(tensor.data_type)
    if dtype is None or tensor.HasField("segment"):
        _leave_out(message, [name], f"data type {tensor.data_type} is not read")
        return None
    elems = 1
    for dim in dims:
        elems *= dim
    nbytes = elems * DTYPES[dtype].bits // 8
    if tensor.data_location == _EXTERNAL:
        file, offset = _external(message, where, tensor, nbytes)
        return Stored(name, dtype, dims, file, offset, nbytes)
    key, data = _inside(tensor, dtype)
    if not data and nbytes:
        _leave_out(message, [name], "its numbers are stored one by one, not as bytes")
        return None
    if len(data) != nbytes:
        raise FormatError(f"{where}: {len(data):,} bytes; {dtype} {list(dims)} takes {nbytes:,}")
    offset = _find(message, where, key, data) if nbytes else 0
    return Stored(name, dtype, dims, message.file, offset, nbytes)


def _leave_out(message: _Message, names: list[str], why: str) -> None:
    message.unread.extend(names)
    message.notes.extend(
        f"{message.path}: initialiser {name!r:.200}: {why}; it was left out" for name in names
    )


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
    location = fields.get("location", "")
    offset = _number(f"{where}: external_data: offset", fields.get("offset", "0"))
    length = _number(f"{where}: external_data: length", fields.get("length", str(nbytes)))
    if length != nbytes:
        raise FormatError(f"{where}: external_data: length: {length:,}; its shape takes {nbytes:,}")
    if message.folder is None:
        raise UnsupportedError(f"{where}: its data is in {location!r:.200}, beside a URL's chain")
    if location not in message.files:
        parts = [part for part in location.split("/") if part != "."]
        path = message.folder.join("/".join(parts))
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


def _values(
    message: _Message, graph: Any, stored: Mapping[str, Stored]
) -> dict[str, str | int | None]:
    """What the operators say of the initialisers that they dequantise."""
    values: dict[str, str | int | None] = {}
    for node in graph.node:
        for name in node.input:
            if (name in stored or name in message.unread) and _means_codes(node, stored.get(name)):
                values.setdefault(f"{name}.op", node.op_type)
        if node.op_type == "MatMulNBits" and len(node.input) > 2 and node.input[1] in stored:
            _enter_nbits(message, node, values)
    return values


def _means_codes(node: Any, stored: Stored | None) -> bool:
    """Whether what an operator takes may be codes: of those that quantise, and of unknown ones.

    Operators outside of ONNX's own are taken for such where they take numbers of 8 bits or fewer.
    """
    if node.op_type in _QUANTISED:
        return True
    if node.domain in ("", "ai.onnx"):
        return False
    row = None if stored is None else DTYPES[stored.dtype]
    return row is None or (row.bits <= 8 and row.kind != "bool")


def _enter_nbits(message: _Message, node: Any, values: dict[str, str | int | None]) -> None:
    codes = node.input[1]
    numbers = {attribute.name: attribute.i for attribute in node.attribute}
    inputs = (*node.input[2:5], "", "", "")
    said: dict[str, str | int | None] = {key: numbers.get(key, 0) for key in _NBITS_NUMBERS}
    said |= zip(_NBITS_INPUTS, inputs, strict=False)
    for key, value in said.items():
        if values.setdefault(f"{codes}.{key}", value) != value:
            raise FormatError(
                f"{message.path}: initialiser {codes!r:.200}: two nodes give it different {key}"
            )


__all__ = ["open_onnx"]
