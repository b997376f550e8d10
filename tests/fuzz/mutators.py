"""Mutations that keep a container's structure: lengths, counts, offsets and CRCs are right again.

A mutator takes a file, a source of chance and libFuzzer's own `mutate(part, most_bytes)`, and gives
a file. What it cannot take apart it leaves to libFuzzer.
"""

from __future__ import annotations

import json
import pickle
import pickletools
import re
import struct
from collections.abc import Callable
from random import Random
from typing import Any

from gguf_parts import mutate_gguf
from zip_parts import read_zip, write_zip

Mutate = Callable[[bytes, int], bytes]
Mutator = Callable[[bytes, Random, Mutate], bytes]

GROWTH = 64  # bytes that one mutation may add to a part

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

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, 0, 1, -1, 1.5, 1 << 31, 1 << 63, 1 << 64, 10**40, float("inf")),
    *("", "..", "../x", "/x", "a/b", "\0", "\ud800", "é", [], [[]], {}, {"a": {}}, [0, 1], [1, 0]),
)
YAML_WORDS = (
    *(
        b": ",
        b"- ",
        b"? ",
        b"\n",
        b"\n  ",
        b"---\n",
        b"|\n",
        b">-\n",
        b"{",
        b"}",
        b"[",
        b"]",
        b", ",
    ),
    *(b"#", b"&a ", b"*a", b"<<: ", b"!!str ", b"!!python/name:os.system ", b"%YAML 1.2\n---\n"),
    *(
        b'"\\U00110000"',
        b'"\\ud800"',
        b'"\\x00"',
        b"%YAML 1.99999999999999999999\n---\n",
        b"%TAG ! x\n",
    ),
    *(b"null", b"true", b"NO", b"0", b"-1", b"1e999", b".nan", b"9" * 50, b"5GB", b"1e3KiB", b"''"),
    *(
        b"threads: 0",
        b"format: arrow",
        b"dtype: f64",
        b"unknown: 1",
        b"max_items: 1",
        b"\xff",
        b"\t",
    ),
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


def mutate_safetensors(data: bytes, chance: Random, mutate: Mutate) -> bytes:
    """The header's text, or one entry with all offsets laid out again; the length is right."""
    (nbytes,) = struct.unpack_from("<Q", data)
    text, payload = data[8 : 8 + nbytes], data[8 + nbytes :]
    if chance.random() < 0.4:
        text = mutate(text, nbytes + GROWTH)
        return struct.pack("<Q", len(text)) + text + payload
    header = json.loads(text)
    if chance.random() < 0.3:
        _replace_value(header, chance)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + payload
    names = [name for name in header if name != "__metadata__"]
    name = chance.choice(names)
    entry = dict(header[name])
    kind = chance.randrange(5)
    if kind == 0:
        entry["dtype"] = chance.choice([header[n]["dtype"] for n in names] + ["U8", "F16", "I32"])
    elif kind == 1:
        entry["shape"] = [*entry["shape"], chance.choice((0, 1, 2, 1 << 62))]
    elif kind == 2 and entry["shape"]:
        entry["shape"][chance.randrange(len(entry["shape"]))] = chance.choice((0, 1, 2, 8, 32, 129))
    elif kind == 3:
        name = mutate(name.encode(), len(name) + 16).decode(errors="replace")
    else:
        del header[name]
    if kind < 4:
        header[name] = entry
    at = 0
    for laid in (e for n, e in header.items() if n != "__metadata__"):
        size = _nbytes(laid)
        laid["data_offsets"] = [at, at + size]
        at += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + payload[:at] + bytes(at - len(payload[:at]))


def mutate_json(data: bytes, chance: Random, mutate: Mutate) -> bytes:
    """Some value of the document by one of another kind, or its text."""
    if chance.random() < 0.5:
        return mutate(data, len(data) + GROWTH)
    value = json.loads(data)
    _replace_value(value, chance)
    return json.dumps(value, ensure_ascii=chance.random() < 0.5).encode(errors="surrogatepass")


def mutate_yaml(data: bytes, chance: Random, mutate: Mutate) -> bytes:
    """Lines and words moved, doubled, left out or replaced by odd ones, or any bytes."""
    if chance.random() < 0.4:
        return mutate(data, len(data) + GROWTH)
    pieces = re.split(rb"([\s,\[\]{}]+)", data)
    at = chance.randrange(len(pieces))
    kind = chance.randrange(5)
    if kind < 2:
        pieces[at] = chance.choice(YAML_WORDS)
    elif kind == 2:
        del pieces[at]
    elif kind == 3:
        pieces.insert(chance.randrange(len(pieces)), pieces[at])
    else:
        pieces.insert(at, chance.choice(YAML_WORDS))
    return b"".join(pieces)


def _replace_value(document: Any, chance: Random) -> None:
    """Put an odd value somewhere in nested lists and objects."""
    places = []
    inner = [document]
    while inner:
        holder = inner.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        places += [(holder, key) for key in keys]
        inner += [holder[key] for key in keys if isinstance(holder[key], dict | list)]
    holder, key = chance.choice(places)
    holder[key] = chance.choice(ODD_VALUES)


def _nbytes(entry: dict[str, Any]) -> int:
    digits = "".join(c for c in entry["dtype"].split("_")[0] if c.isdigit())
    bits = int(digits or 8)
    for length in entry["shape"]:
        bits *= length
    if bits >= 1 << 16:
        raise ValueError
    return bits // 8


MUTATORS: dict[str, Mutator] = {
    "gguf": guarded(mutate_gguf),
    "json": guarded(mutate_json),
    "npz": guarded(mutate_zip),
    "pth": guarded(mutate_zip),
    "pth-legacy": guarded(mutate_legacy),
    "safetensors": guarded(mutate_safetensors),
    "yaml": guarded(mutate_yaml),
}
