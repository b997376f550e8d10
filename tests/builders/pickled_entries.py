"""Pickles of state dicts, opcode by opcode, with the memo as Python's pickler numbers it."""

from __future__ import annotations

import struct

SOME = 300  # values that the memo holds before: places of four bytes, as in any larger checkpoint


def number(value: int) -> bytes:
    """As Python's pickler spells it in protocol 2."""
    if value < 1 << 8:
        return struct.pack("<cB", b"K", value)
    if value < 1 << 16:
        return struct.pack("<cH", b"M", value)
    if value < 1 << 31:
        return struct.pack("<ci", b"J", value)
    nbytes = value.bit_length() // 8 + 1
    return struct.pack("<cB", b"\x8a", nbytes) + value.to_bytes(nbytes, "little")


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<cI", b"X", len(raw)) + raw


class EntryWriter:
    """Entries of protocol 2, as torch.save makes them."""

    def __init__(self) -> None:
        self.data = bytearray(b"\x80\x02}q\x00(")
        self.count = 1
        self.places: dict[str, int] = {}

    def put(self) -> None:
        self.data += struct.pack("<cI", b"r", self.count)
        self.count += 1

    def once(self, value: str, spelt: bytes) -> None:
        """A value that is spelt where it comes first."""
        if value in self.places:
            place = self.places[value]
            self.data += (
                struct.pack("<cB", b"h", place) if place < 256 else struct.pack("<cI", b"j", place)
            )
        else:
            self.places[value] = self.count
            self.data += spelt
            self.put()

    def tuple_(self, values: list[int]) -> None:
        if len(values) > 3:
            self.data += b"(" + b"".join(map(number, values)) + b"t"
        else:
            self.data += (
                b"".join(map(number, values)) + {1: b"\x85", 2: b"\x86", 3: b"\x87"}[len(values)]
            )
        self.put()

    def entry(self, name: str, key: str, elems: int, offset: int, shape: list[int]) -> None:
        self.data += text(name)
        self.put()
        self.once("f", b"ctorch._utils\n_rebuild_tensor_v2\n")
        self.data += b"(("
        self.once("storage", text("storage"))
        self.once("class", b"ctorch\nFloatStorage\n")
        self.once(f"key {key}", text(key))
        self.once("cpu", text("cpu"))
        self.data += number(elems) + b"t"
        self.put()
        self.data += b"Q" + number(offset)
        strides = [1] * len(shape)
        for axis in range(len(shape) - 2, -1, -1):
            strides[axis] = strides[axis + 1] * shape[axis + 1]
        self.tuple_(shape)
        self.tuple_(strides)
        self.data += b"\x89"
        self.once("hooks", b"ccollections\nOrderedDict\n")
        for opcodes in (b")R", b"t", b"R"):
            self.data += opcodes
            self.put()

    def fill(self) -> None:
        """Entries that are no tensors, so that places get four bytes."""
        for value in range(SOME):
            self.data += text(f"v{value}")
            self.put()
            self.data += b"N"

    def end(self) -> bytes:
        """The pickle of all entries."""
        return bytes(self.data) + b"u."
