"""JSON, YAML and safetensors headers with values and words replaced by odd ones, lengths right.

A mutator takes a file, a source of chance and libFuzzer's own `mutate(part, most_bytes)`.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from random import Random
from typing import Any

Mutate = Callable[[bytes, int], bytes]

GROWTH = 64  # bytes that one mutation may add to a part

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
