"""Checkpoints put together opcode by opcode, every field at the caller's mercy; no torch needed.

Opcodes: CPython's Lib/pickletools.py. A piece of a pickle is bytes that push one value.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
ITEM_BYTES = {"FloatStorage": 4, "HalfStorage": 2, "ByteStorage": 1, "UntypedStorage": 1}


def value(plain: Any) -> bytes:
    """Text, numbers, None, booleans and tuples of those, as protocol 2 pushes them."""
    if isinstance(plain, tuple):
        return tuple_(*map(value, plain))
    return pickle.dumps(plain, protocol=2)[2:-1]


def global_(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def tuple_(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def list_(*parts: bytes) -> bytes:
    return b"](" + b"".join(parts) + b"e"


def dict_(entries: Mapping[Any, bytes] | Iterable[tuple[Any, bytes]]) -> bytes:
    pairs = entries.items() if isinstance(entries, Mapping) else entries
    return b"}(" + b"".join(value(key) + item for key, item in pairs) + b"u"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_(*arguments) + b"R"


HOOKS = call(global_("collections", "OrderedDict"))


def storage(
    key: Any = "0",
    elems: Any = 4,
    cls: str = "FloatStorage",
    view: Any = ...,
    module: str = "torch",
) -> bytes:
    """A storage by its persistent id; with `view` (or None) as legacy files have it."""
    parts = [value("storage"), global_(module, cls), value(key), value("cpu"), value(elems)]
    if view is not ...:
        parts.append(value(view))
    return tuple_(*parts) + b"Q"


def tensor(
    store: bytes, size: Any = (4,), stride: Any = (1,), offset: Any = 0, *extra: bytes
) -> bytes:
    return call(
        global_("torch._utils", "_rebuild_tensor_v2"),
        store,
        value(offset),
        value(size),
        value(stride),
        value(False),
        HOOKS,
        *extra,
    )


def pickled(top: bytes, protocol: int = 2) -> bytes:
    return bytes((0x80, protocol)) + top + b"."


def archive(members: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in members:
            file.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def pth(
    pickle_bytes: bytes,
    storages: Mapping[str, bytes],
    root: str = "archive",
    extra: Iterable[tuple[str, bytes]] = (("version", b"3\n"),),
    method: int = zipfile.ZIP_STORED,
) -> bytes:
    """A ZIP checkpoint of a whole pickle and the storages' bytes."""
    members = [("data.pkl", pickle_bytes)]
    members += [(f"data/{key}", data) for key, data in storages.items()]
    return archive([(f"{root}/{name}", data) for name, data in (*members, *extra)], method)


SYSTEM = {
    "protocol_version": 1001,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}


def legacy(
    top: bytes,
    storages: Iterable[tuple[str, int, bytes]],
    *,
    magic: bytes | None = None,
    version: bytes | None = None,
    system: bytes | None = None,
    keys: bytes | None = None,
) -> bytes:
    """A checkpoint of the old format; `storages` are (key, count, bytes), other parts pickles."""
    storages = list(storages)
    parts = [
        magic if magic is not None else pickle.dumps(MAGIC_NUMBER, protocol=2),
        version if version is not None else pickle.dumps(1001, protocol=2),
        system if system is not None else pickle.dumps(SYSTEM, protocol=2),
        pickled(top),
        keys if keys is not None else pickle.dumps([key for key, _, _ in storages], protocol=2),
    ]
    parts += [struct.pack("<q", count) + data for _, count, data in storages]
    return b"".join(parts)


def one_tensor(legacy_form: bool = False, **settings: Any) -> bytes:
    """A dict of one tensor `w` of four float32."""
    store = storage(view=None) if legacy_form else storage()
    return dict_({"w": tensor(store, **settings)})


DATA = struct.pack("<4f", 1.0, -2.0, 3.5, 0.0)


def good_pth() -> bytes:
    return pth(pickled(one_tensor()), {"0": DATA})


def good_legacy() -> bytes:
    return legacy(one_tensor(legacy_form=True), [("0", 4, DATA)])
