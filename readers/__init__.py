"""Formats in: containers to spans, spans to logical tensors, tensors to Arrow record batches.

The table of readers: which parser opens a file. Rows are sorted by name; a module is
imported when a file of its kind is opened.
"""

from __future__ import annotations

from dataclasses import dataclass

from anamnesis.limits import Limits
from anamnesis.readers.base import Container


@dataclass(frozen=True, slots=True)
class Reader:
    """A row: the parser, the bytes that its files have at `magic_at`, and their usual names.

    A magic number is `decisive` when nothing else has it; otherwise the file's name may say more.
    Of archives, one member's name has to end with `holds`.
    """

    target: str  # "module:function" inside anamnesis.readers; called with (path, limits)
    magic: bytes
    extensions: tuple[str, ...]
    magic_at: int = 0
    decisive: bool = True
    holds: str = ""


READERS: dict[str, Reader] = {
    "gguf": Reader("gguf:open_gguf", b"GGUF", (".gguf",)),
    "npy": Reader("npy:open_npy", b"\x93NUMPY", (".npy",)),
    "npz": Reader("npz:open_npz", b"PK\x03\x04", (".npz",), holds=".npy"),
    "safetensors": Reader(
        "safetensors:open_safetensors", b"{", (".safetensors",), magic_at=8, decisive=False
    ),
}


def open_container(path: str, limits: Limits) -> Container:
    """Parse the headers of the file at `path`, whatever container it is; see `detect`."""
    from anamnesis.readers.detect import detect

    return detect(path, limits)(path, limits)
