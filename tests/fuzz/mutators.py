"""Mutations that keep a container's structure: lengths, counts, offsets and CRCs are right again.

A mutator takes a file, a source of chance and libFuzzer's own `mutate(part, most_bytes)`, and gives
a file. What it cannot take apart it leaves to libFuzzer.
"""

from __future__ import annotations

import pickle
import pickletools
import struct
from collections.abc import Callable
from random import Random
from typing import Any

from gguf_parts import mutate_gguf
from text_parts import GROWTH, mutate_json, mutate_safetensors, mutate_yaml
from zip_parts import read_zip, write_zip

Mutate = Callable[[bytes, int], bytes]
Mutator = Callable[[bytes, Random, Mutate], bytes]

# Pieces of pickles: marks, containers, memo, calls, globals, numbers too large.
OPCODES = (
    *(bytes((op,)) for op in b"(.012}])tulaesbRQaN\x85\x86\x87\x88\x89\x8f\x90\x91\x93\x94"),
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch\nHalfStorage\n",
    b"ctorch\nfloat16\n",
    b"cos\nsystem\n",
    b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
    b"J\xff\xff\xff\x7f",
    b"K\x02",
    b"q\x01",
    b"h\x01",
    b"X\x01\0\0\0w",
)


def guarded(mutator: Mutator) -> Mutator:
    def mutate_or_leave(data: bytes, chance: Random, mutate: Mutate) -> bytes:
        try:
            return mutator(data, chance, mutate)
        except Exception:  # whatever Python makes of a file that is broken already
            return mutate(data, len(data) + GROWTH)

    return mutate_or_leave


def mutate_pickle(data: bytes, chance: Random, mutate: Mutate) -> bytes:
    """Whole opcodes moved, doubled, left out or put in, or the argument of one changed."""
    starts = [position for _, _, position in pickletools.genops(data) if position is not None]
    ops = [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(ops))
        kind = chance.randrange(8)
        numbers = [i for i, op in enumerate(ops) if op[:1] in (b"K", b"M", b"J", b"\x8a")]
        if kind > 5 and numbers:
            ops[chance.choice(numbers)] = _number(chance)
        elif kind == 0:
            ops.insert(at, chance.choice(OPCODES))
        elif kind == 1:
            ops[at] = chance.choice(OPCODES)
        elif kind == 2 and len(ops) > 1:
            del ops[at]
        elif kind == 3:
            ops.insert(chance.randrange(len(ops)), ops[at])
        elif kind == 4:
            stop = min(len(ops), at + chance.randrange(1, 12))
            ops[at:at] = ops[at:stop]
        else:
            ops[at] = mutate(ops[at], len(ops[at]) + 8)
    return b"".join(ops)


def _number(chance: Random) -> bytes:
    """An integer as pickles have it: small, at an edge, or absurd."""
    value = chance.choice((*range(10), 255, 1 << 16, (1 << 31) - 1, (1 << 63) - 1, -1, 1 << 64))
    return pickle.dumps(value, protocol=2)[2:-1]


def mutate_legacy(data: bytes, chance: Random, mutate: Mutate) -> bytes:
    """One of the five pickles, or what follows them."""
    pieces = []
    at = 0
    for _ in range(5):
        *_, (_, _, last) = pickletools.genops(data[at:])
        assert last is not None
        pieces.append(data[at : at + last + 1])
        at += last + 1
    pieces.append(data[at:])
    which = chance.choice((0, 1, 2, 3, 3, 3, 3, 4, 5))
    if which == 5:
        pieces[5] = mutate(pieces[5], len(pieces[5]) + GROWTH)
    else:
        pieces[which] = mutate_pickle(pieces[which], chance, mutate)
    return b"".join(pieces)


def mutate_arrow(data: bytes, chance: Random, mutate: Mutate) -> bytes:
    """Numbers of a few bytes in the metadata, or a text of one length for another."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        width = chance.choice((1, 2, 4, 8))
        at = chance.randrange(len(out) // width) * width
        old = int.from_bytes(out[at : at + width], "little")
        edges = (0, 1, 8, (1 << 8 * width) - 1, 1 << 8 * width - 1, len(data), old + 1, old - 1)
        new = chance.choice((*edges, old ^ 1 << chance.randrange(8 * width)))
        out[at : at + width] = (new % (1 << 8 * width)).to_bytes(width, "little")
    return bytes(out) if chance.random() < 0.8 else mutate(bytes(out), len(out) + GROWTH)


def mutate_npy(data: bytes, chance: Random, mutate: Mutate) -> bytes:
    """The text of the header, with its length made right."""
    code, at = ("<H", 10) if data[6] == 1 else ("<I", 12)
    (nbytes,) = struct.unpack_from(code, data, 8)
    text = mutate(data[at : at + nbytes], nbytes + GROWTH)
    return data[:8] + struct.pack(code, len(text)) + text + data[at + nbytes :]


def mutate_zip(data: bytes, chance: Random, mutate: Mutate) -> bytes:
    """A member's data or place, or one field of one header; the rest is consistent again."""
    members = read_zip(data)
    at = chance.randrange(len(members))
    if chance.random() < 0.4:
        # Where the structure is; most others are plain numbers.
        at = max(range(len(members)), key=lambda i: members[i].name.endswith(b".pkl"))
    member = members[at]
    dents: dict[tuple[int, str, str], int] = {}
    kind = chance.randrange(8)
    if kind < 4:
        plain = member.plain()
        for ending, special in ((b".pkl", mutate_pickle), (b".npy", mutate_npy)):
            if member.name.endswith(ending) and chance.random() < 0.8:
                member.fill(guarded(special)(plain, chance, mutate))
                break
        else:
            member.fill(mutate(plain or b"\0", len(plain) + GROWTH))
    elif kind == 4:
        places = (("local",), ("central",), ("local", "central"))
        field = chance.choice(("crc", "packed", "size", "method", "flags", "offset", "extra_bytes"))
        value = chance.choice((0, 1, 8, 0xFFFF, 0xFFFFFFFF, len(data), chance.randrange(1 << 16)))
        for place in chance.choice(places):
            dents[at, place, field] = value
    elif kind == 5:
        edits: tuple[Callable[[], Any], ...] = (
            lambda: members.insert(chance.randrange(len(members)), member),
            lambda: members.remove(member) if len(members) > 1 else None,
            lambda: chance.shuffle(members),
            lambda: members.insert(0, member.copy(name=mutate(member.name, len(member.name) + 8))),
        )
        chance.choice(edits)()
    elif kind == 6:
        member.flip(chance)
    else:
        place = chance.choice(("local_extra", "central_extra", "name"))
        value_bytes = getattr(member, place)
        setattr(member, place, mutate(value_bytes or b"\1\0\0\0", len(value_bytes) + 40))
    return write_zip(members, dents)


MUTATORS: dict[str, Mutator] = {
    "arrow": guarded(mutate_arrow),
    "config": guarded(mutate_json),
    "gguf": guarded(mutate_gguf),
    "index": guarded(mutate_json),
    "journal": guarded(mutate_json),
    "json": guarded(mutate_json),
    "layers": guarded(mutate_json),
    "manifest": guarded(mutate_json),
    "npz": guarded(mutate_zip),
    "pth": guarded(mutate_zip),
    "pth-legacy": guarded(mutate_legacy),
    "safetensors": guarded(mutate_safetensors),
    "to-gguf": guarded(mutate_json),
    "to-hf": guarded(mutate_gguf),
    "yaml": guarded(mutate_yaml),
}
