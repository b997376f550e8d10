"""GGUF files as key/values and tensors that can be changed and laid out again.

Layout: `readers/gguf_fields.py`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from anamnesis.readers.gguf_types import GGML_TYPES

_NUMBER_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_LENGTHS = (0, 1, 2, 31, 32, 33, 64, 256, 1 << 31, 1 << 32, (1 << 62) - 1, 1 << 63, (1 << 64) - 1)
_ALIGNMENTS = (0, 1, 3, 8, 32, 64, 4096, 1 << 20, 1 << 31)


class Tensor(NamedTuple):
    name: bytes
    dims: tuple[int, ...]
    type_id: int
    offset: int


class Parts(NamedTuple):
    version: int
    pairs: list[tuple[bytes, int, bytes]]
    tensors: list[Tensor]
    payload: bytes


def read_parts(data: bytes) -> Parts:
    """Take a file apart; raises struct.error, KeyError or ValueError."""
    version, n_tensors, n_pairs = struct.unpack_from("<IQQ", data, 4)
    if n_tensors + n_pairs > 64:
        raise ValueError
    at = 24
    pairs, tensors = [], []
    for _ in range(n_pairs):
        key, at = _string(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        end = _skip(data, at + 4, kind)
        pairs.append((key, kind, data[at + 4 : end]))
        at = end
    for _ in range(n_tensors):
        name, at = _string(data, at)
        (rank,) = struct.unpack_from("<I", data, at)
        if rank > 8:
            raise ValueError
        *dims, type_id, offset = struct.unpack_from(f"<{rank}QIQ", data, at + 4)
        at += 16 + 8 * rank
        tensors.append(Tensor(name, tuple(dims), type_id, offset))
    return Parts(version, pairs, tensors, data[at + -at % 32 :])


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    (nbytes,) = struct.unpack_from("<Q", data, at)
    if nbytes > len(data):
        raise ValueError
    return data[at + 8 : at + 8 + nbytes], at + 8 + nbytes


def _skip(data: bytes, at: int, kind: int, depth: int = 0) -> int:
    if at > len(data) or depth > 4:
        raise ValueError
    if kind == _STRING:
        return _string(data, at)[1]
    if kind == _ARRAY:
        kind, count = struct.unpack_from("<IQ", data, at)
        at += 12
        if kind in _NUMBER_BYTES:
            return at + count * _NUMBER_BYTES[kind]
        for _ in range(count):
            at = _skip(data, at, kind, depth + 1)
        return at
    return at + _NUMBER_BYTES[kind]


def write_parts(parts: Parts, lay_out: bool = True) -> bytes:
    """The file; with `lay_out`, offsets and the payload's size are those that the tensors need."""
    alignment = 32
    body = b""
    for key, kind, value in parts.pairs:
        body += _sized(key) + struct.pack("<I", kind) + value
        if key == b"general.alignment" and len(value) == 4:
            alignment = min(max(1, int.from_bytes(value, "little")), 4096)
    at = 0
    for tensor in parts.tensors:
        offset = at if lay_out else tensor.offset
        body += _sized(tensor.name) + struct.pack("<I", len(tensor.dims))
        body += struct.pack(f"<{len(tensor.dims)}QIQ", *tensor.dims, tensor.type_id, offset)
        nbytes = _nbytes(tensor)
        at += nbytes + -nbytes % alignment
    head = struct.pack("<4sIQQ", b"GGUF", parts.version, len(parts.tensors), len(parts.pairs))
    head += body
    payload = parts.payload
    if lay_out:
        payload = payload[:at] + bytes(at - len(payload[:at]))
    return head + bytes(-len(head) % alignment) + payload


def _sized(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _nbytes(tensor: Tensor) -> int:
    row = GGML_TYPES.get(tensor.type_id)
    if row is None:
        return 0
    nbytes = math.prod(tensor.dims) * row.block_bytes // row.block_elems
    nbytes += math.prod(tensor.dims[1:]) * row.row_meta + row.tail
    return nbytes if nbytes < 1 << 14 else 0


def mutate_gguf(data: bytes, chance: Random, mutate: Callable[[bytes, int], bytes]) -> bytes:
    """Change a key, a value, or a tensor's name, type, rank or dimensions."""
    parts = read_parts(data)
    pairs, tensors = parts.pairs, parts.tensors
    if chance.random() < 0.5 and pairs:
        _mutate_pair(pairs, chance, mutate)
    elif tensors:
        _mutate_tensor(tensors, chance, mutate)
    else:
        tensors.append(Tensor(b"t", (32,), chance.choice(list(GGML_TYPES)), 0))
    return write_parts(parts, chance.random() < 0.8)


def _mutate_pair(
    pairs: list[tuple[bytes, int, bytes]], chance: Random, mutate: Callable[[bytes, int], bytes]
) -> None:
    at = chance.randrange(len(pairs))
    key, kind, value = pairs[at]
    action = chance.randrange(6)
    if action == 0:
        pairs.append((mutate(key, len(key) + 8) or b"k", kind, value))
    elif action == 1:
        del pairs[at]
    elif action == 2:
        pairs[at] = (key, chance.randrange(14), value)
    elif action == 3 and kind == _STRING:
        text = mutate(value[8:] or b"\0", len(value) + 32)
        pairs[at] = (key, kind, _sized(text))
    elif action == 4:
        alignment = struct.pack("<I", chance.choice(_ALIGNMENTS))
        pairs.insert(at, (b"general.alignment", 4, alignment))
    else:
        pairs[at] = (key, kind, mutate(value or b"\0", len(value) + 32))


def _mutate_tensor(
    tensors: list[Tensor], chance: Random, mutate: Callable[[bytes, int], bytes]
) -> None:
    at = chance.randrange(len(tensors))
    tensor = tensors[at]
    action = chance.randrange(6)
    if action == 0:
        name = mutate(tensor.name, len(tensor.name) + 8) or b"t"
        tensors.append(tensor._replace(name=name))
    elif action == 1:
        del tensors[at]
    elif action == 2:
        # Types that are read, those between them, and any number.
        known = [*GGML_TYPES, *range(44), chance.randrange(1 << 32)]
        tensors[at] = tensor._replace(type_id=chance.choice(known))
    elif action == 3 and tensor.dims:
        dims = list(tensor.dims)
        dims[chance.randrange(len(dims))] = chance.choice(_LENGTHS)
        tensors[at] = tensor._replace(dims=tuple(dims))
    elif action == 4:
        dims = [*tensor.dims, chance.choice((0, 1, 2, 1 << 40))]
        tensors[at] = tensor._replace(dims=tuple(dims[: chance.randrange(6)]))
    else:
        offset = (tensor.offset + chance.choice((-32, -1, 1, 32, 64, 1 << 63))) % (1 << 64)
        tensors[at] = tensor._replace(offset=offset)
