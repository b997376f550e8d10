"""The tensors of a dict as steps of the pickle machine: all opcodes of an entry at once.

torch.save writes some 30 opcodes for an entry (protocol 2; `__reduce_ex__` in torch/_tensor.py,
`persistent_id` in torch/serialization.py), and a checkpoint may have a million of them:

    name PUT GET                                         the function is _rebuild_tensor_v2
    (
      ( "storage" class key location elements t PUT Q    the storage, by persistent id
      offset  size PUT  stride PUT  requires_grad        its place, two tuples of numbers,
      OrderedDict ) R PUT                                and backward hooks, of which there are none
    t PUT R PUT

Texts but the name, and globals, come from the memo (GET). A step has the effect, the price and the
errors of its opcodes but for one thing: the values in between, of which nobody else knows, are not
made, and the memo does without them (`Skipped`). What is spelt in another manner, or costs more
than is left, the machine runs opcode by opcode.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from anamnesis.readers.pickle_vm import (
    MEMO_BYTES,
    NODE_BYTES,
    NUMBER_BYTES,
    SLOT_BYTES,
    TEXT_BYTES,
    Machine,
    Node,
)
from anamnesis.readers.torch_alike import TEXT, TEXT_HEAD, Alike, Spelt
from anamnesis.readers.torch_globals import REBUILD_TENSOR, dict_like
from anamnesis.readers.torch_records import TorchTensor, lay

_TUPLE, _LONG1 = b"t\x8a"
_PARTS = {
    b"get": rb"(?:h.|j.{4})",  # BINGET, LONG_BINGET
    b"put": rb"r.{4}",  # LONG_BINPUT; the first 256 values, which have BINPUT, are not worth it
    b"int": rb"(?:K.|M..|J.{3}[\0-\x7f])",  # BININT1, BININT2, BININT from 0 on
    b"long": rb"\x8a(?:\x05.{4}|\x06.{5}|\x07.{6})[\0-\x7f]",  # LONG1 from 0 on
    # A storage's key is a decimal number, which its first tensor spells and puts into the memo.
    b"text": b"|".join(rb"X%b\0{3}\d{%d}" % (re.escape(bytes([n])), n) for n in range(1, 21)),
}
_PARTS[b"key"] = rb"(?:%(get)b|(?:%(text)b)%(put)b)" % _PARTS
_PARTS[b"number"] = rb"(?:%(int)b|%(long)b)" % _PARTS
_PARTS[b"tuple"] = rb"(?:%(int)b\x85|%(int)b{2}\x86|%(int)b{3}\x87|\(%(int)b{4,8}t)" % _PARTS
# What follows a name. PUTs are `_PUTS` when joined.
_ENTRY = re.compile(
    rb"(%(put)b)(?P<function>%(get)b)\(\((?P<spelt>%(get)b{2}%(key)b%(get)b%(number)bN?)t(%(put)b)"
    rb"Q(?P<offset>%(number)b)(?P<size>%(tuple)b)(%(put)b)(?P<stride>%(tuple)b)(%(put)b)"
    rb"[\x88\x89](?P<hooks>%(get)b)\)R(%(put)b)t(%(put)b)R(%(put)b)" % _PARTS,
    re.DOTALL,
)
_PUTS = struct.Struct("<xIxIxIxIxIxIxI")
_IDENTIFIER = re.compile(
    rb"(%(get)b)(%(get)b)(?:(%(get)b)|(%(text)b)(%(put)b))(%(get)b)(%(number)b)(N?)" % _PARTS,
    re.DOTALL,
)
_NUMBER = re.compile(_PARTS[b"int"], re.DOTALL)


class TensorSteps:
    """Runs entries as steps; `load` answers for their storages."""

    def __init__(self, where: str, load: Callable[[Any], Any]) -> None:
        self._where, self._load = where, load
        # The storage of the tensor before, which is often that of the next.
        self._identifier: _Identifier | None = None
        self._values: list[Any] = []
        self._storage: Any = None
        # How the entry before is spelt, and what runs those that are spelt as it is.
        self._spelt: tuple[bytes, bytes, bytes] | None = None
        self._alike: Alike | None = None

    def run(self, machine: Machine) -> None:
        """Run the entries at the machine's position; raises what `load` and `lay` raise."""
        while self._run_entry(machine):
            if self._alike is not None:
                self._alike.run(machine)

    def _run_entry(self, machine: Machine) -> bool:
        data, memo, start = machine.data, machine.memo, machine.position + TEXT_HEAD
        stop = start + int.from_bytes(data[start - 4 : start], "little")
        match = _ENTRY.match(data, stop)
        if match is None or data[machine.position] != TEXT:
            return False
        put, function, spelt, put_a, offset, size, put_b, stride, put_c, hooks, *others = (
            match.groups()
        )
        called, identifier, box = _places(function, hooks), _identifier(spelt), _box(size, stride)
        place, a, b, c, d, e, last = _PUTS.unpack(b"".join((put, put_a, put_b, put_c, *others)))
        # The key, where it is spelt, has a place between the name's and its tuple's.
        key = identifier.put
        if not machine.highest < place < a < b < c < d < e < last or not (
            key is None or place < key < a
        ):
            return False  # a value would be replaced
        values, name = list(map(memo.get, identifier.gets)), data[start:stop]
        if None in values or memo.get(called[0]) is not REBUILD_TENSOR or not name.isascii():
            return False
        price = box.price + identifier.price + _taken(offset) + len(name)
        if price > machine.room or not dict_like(memo.get(called[1])):
            return False
        storage = self._load_again(identifier, values)
        tensor = lay(self._where, storage, _number(offset), (box.shape, box.strides))
        if identifier.put is not None:
            memo[identifier.put] = identifier.key
        memo[place] = text = name.decode()
        memo[last] = tensor
        machine.stack += (text, tensor)
        machine.highest = last
        opcodes = box.opcodes + identifier.opcodes
        machine.stepped(match.end(), price, opcodes)
        # Only what comes twice is expected to come again.
        again, self._spelt = self._spelt, (spelt, size, stride)
        alike = again == self._spelt and identifier.put is None and Alike.fits(offset[:1])
        self._alike = _alike(match, tensor, price - len(name), opcodes) if alike else None
        return True

    def _load_again(self, identifier: _Identifier, values: list[Any]) -> Any:
        if identifier is not self._identifier or values != self._values:
            self._storage = self._load(Node("tuple", identifier.items(values)))
            self._identifier, self._values = identifier, values
        return self._storage


def _alike(match: re.Match[bytes], tensor: TorchTensor, price: int, opcodes: int) -> Alike:
    """What runs entries like the one that gave `tensor`; `price` is without the name."""
    data, hooks = match.string, match.start("hooks") - 1
    head, offset = data[match.start("function") : match.end("spelt") + 1], match["offset"]
    ends = match["size"], match["stride"], data[hooks : match.end("hooks")]
    return Alike(Spelt(head, offset[:1], *ends), tensor, price, opcodes)


class _Identifier(NamedTuple):
    """A persistent id as it is spelt: where its values are in the memo, and the others.

    With `put` the key is spelt and is put there; `legacy` ids end with a None.
    """

    gets: tuple[int, ...]
    elems: int
    legacy: bool
    key: str
    put: int | None
    price: int
    opcodes: int

    def items(self, values: list[Any]) -> list[Any]:
        """The values of the id, given those of the memo."""
        key = values[3] if self.put is None else self.key
        return [*values[:2], key, values[2], self.elems, *([None] if self.legacy else [])]


class _Box(NamedTuple):
    """Shape and strides as they are spelt."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    price: int
    opcodes: int


@lru_cache(maxsize=256)
def _identifier(spelt: bytes) -> _Identifier:
    """With the price of the id's opcodes, from its MARK to Q, and their number."""
    match = _IDENTIFIER.fullmatch(spelt)
    assert match is not None  # a part of `_ENTRY`
    tag, kind, key, text, put, device, elems, none = match.groups()
    gets = tuple(_number(get) for get in (tag, kind, device, key) if get)
    price = 2 * NUMBER_BYTES + _taken(elems) + NODE_BYTES + SLOT_BYTES * (5 + len(none))
    opcodes, name, place = 9 + len(none), "", None
    if text:
        price += len(text) - TEXT_HEAD + TEXT_BYTES + MEMO_BYTES
        opcodes, name, place = opcodes + 1, text[TEXT_HEAD:].decode(), _number(put)
    return _Identifier(gets, _number(elems), bool(none), name, place, price, opcodes)


@lru_cache(maxsize=1024)  # a model has few shapes
def _box(size: bytes, stride: bytes) -> _Box:
    """With the price of all opcodes but the id's, and their number."""
    shape, strides = (tuple(map(_number, _NUMBER.findall(raw))) for raw in (size, stride))
    marks, numbers = (size[-1] == _TUPLE) + (stride[-1] == _TUPLE), len(shape) + len(strides)
    # Numbers: in both tuples, the offset, MARKs. Nodes: both tuples, the hooks' arguments, all
    # arguments, and at each REDUCE a copy. PUTs: all seven.
    price = (numbers + 1 + 1 + marks) * NUMBER_BYTES + 6 * NODE_BYTES + 7 * MEMO_BYTES
    price += (2 * numbers + 6 + 6) * SLOT_BYTES + TEXT_BYTES
    return _Box(shape, strides, price, 18 + marks + numbers)


@lru_cache(maxsize=256)
def _places(function: bytes, hooks: bytes) -> tuple[int, int]:
    return _number(function), _number(hooks)


def _number(raw: bytes) -> int:
    """The argument of an opcode of numbers, which is not negative, or of the memo."""
    return int.from_bytes(raw[2 if raw[0] == _LONG1 else 1 :], "little")


def _taken(number: bytes) -> int:
    """What a LONG1 costs beside its number: the bytes of its argument."""
    return number[1] if number[0] == _LONG1 else 0
