"""Entries of a dict that are spelt as the one before: what differs is the name and numbers.

A MARK and some 1,000 entries follow one another in what torch.save writes. Where many tensors share
a storage they also share function, persistent id, shape and strides, and then one `unpack` of an
entry's bytes behind its name (see `torch_steps` for them) tells all that is new:

    PUT  const PUT  "Q" opcode offset  size PUT  stride PUT  bool GET ")R" PUT  "t" PUT  "R" PUT

Nothing but these entries runs in between, so that what GET recalls cannot have changed.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

from anamnesis.readers.pickle_vm import Machine
from anamnesis.readers.torch_records import TorchTensor, last_offset

TEXT, TEXT_HEAD = b"X"[0], 5  # BINUNICODE and its length
# BININT1, BININT2 and BININT, the last of which may be negative.
_NUMBERS = {b"K": "B", b"M": "H", b"J": "i"}


class Spelt(NamedTuple):
    """The bytes of an entry between its numbers; `number` is the opcode of the offset."""

    head: bytes  # from the name's PUT to that of the persistent id
    number: bytes
    size: bytes
    stride: bytes
    hooks: bytes  # with the bool before them


class Alike:
    """Runs entries like one that gave `tensor`.

    `price` is what each costs beside its name, and `opcodes` how many it has.
    """

    def __init__(self, spelt: Spelt, tensor: TorchTensor, price: int, opcodes: int) -> None:
        ends = (spelt.size + b"r", spelt.stride + b"r", spelt.hooks + b")Rr", b"tr", b"Rr")
        self._constant = (b"r", spelt.head + b"r", b"Q" + spelt.number, *ends)
        self._form = _form(_NUMBERS[spelt.number], tuple(map(len, self._constant)))
        self._tensor, self._price, self._opcodes = tensor, price, opcodes

    @staticmethod
    def fits(number: bytes) -> bool:
        """Whether entries whose offset begins with that opcode can be run."""
        return number in _NUMBERS

    def run(self, machine: Machine) -> None:
        """Run those that follow at the machine's position, up to one that is not alike."""
        data, memo, stack, constant = machine.data, machine.memo, machine.stack, self._constant
        unpack, from_bytes = self._form.unpack_from, int.from_bytes
        position, end = machine.position, machine.end - self._form.size
        highest, fixed = machine.highest, self._price
        first, most = self._tensor, last_offset(self._tensor)
        dtype, shape, nbytes, storage = first.dtype, first.shape, first.nbytes, first.storage
        strides, refused = first.strides, first.refused
        while position < end and data[position] == TEXT:
            start = position + TEXT_HEAD
            stop = start + from_bytes(data[start - 4 : start], "little")
            if stop > end:
                break
            r, place, head, a, q, offset, size, b, stride, c, hooks, d, t, e, call, last = unpack(
                data, stop
            )
            name = data[start:stop]
            price = fixed + len(name)
            if (
                (r, head, q, size, stride, hooks, t, call) != constant
                or not highest < place < a < b < c < d < e < last
                or not 0 <= offset <= most
                or price > machine.room
                or not name.isascii()
            ):
                break
            memo[place] = text = name.decode()
            memo[last] = tensor = TorchTensor(
                dtype, shape, nbytes, storage, offset, strides, refused
            )
            stack += (text, tensor)
            highest = last
            position = stop + self._form.size
            machine.stepped(position, price, self._opcodes)
        machine.highest = highest


@lru_cache(maxsize=256)
def _form(number: str, sizes: tuple[int, ...]) -> struct.Struct:
    """The bytes behind a name: constant ones of these sizes, and numbers."""
    texts = [f"{size}s" for size in sizes]
    return struct.Struct(f"<{texts[0]}I{texts[1]}I{texts[2]}{number}{'I'.join(texts[3:])}I")
