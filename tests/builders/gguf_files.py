"""GGUF files written for tests, opened and resolved."""

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from anamnesis.limits import Limits
from anamnesis.readers.base import Container
from anamnesis.readers.gguf import open_gguf
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes.base import Ledger

F32, Q2_0, NVFP4 = 0, 42, 40


def finish(writer: Any) -> None:
    """Write what a `gguf.GGUFWriter` was given, in its order, and close the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write(
    path: Path,
    tensors: Iterable[tuple[str, list[int], int, int]],
    *,
    alignment: int | None = None,
    tail: int = 0,
    listed: Iterable[int] | None = None,
) -> Path:
    """A file of `(name, dims fastest first, type id, nbytes)`, each padded as llama.cpp does.

    They lie in that order; `listed` gives another one for the header.
    """
    align = alignment or 32
    infos: list[bytes] = []
    offset = end = 0
    for name, dims, type_id, nbytes in tensors:
        info = struct.pack("<Q", len(name)) + name.encode()
        info += struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type_id, offset)
        infos.append(info)
        end = offset + nbytes
        offset += -(-nbytes // align) * align
    key = b"general.alignment"
    extra = struct.pack("<Q", len(key)) + key + struct.pack("<II", 4, align) if alignment else b""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(infos), bool(alignment)) + extra
    head += b"".join(infos if listed is None else (infos[i] for i in listed))
    head += bytes(-len(head) % align)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + end + tail)
    return path


def opened(path: Path) -> Container:
    return open_gguf(str(path), Limits())


def resolved(path: Path) -> Ledger:
    """What the schemes make of a file, taken or not."""
    ledger = Ledger(opened(path))
    resolve(ledger)
    return ledger
