"""Files that are something else than their name says, known by their first bytes, or by the name.

A download that failed leaves a Git-LFS pointer or an error page under the model's name; a
checkpoint of another tool may sit in the same folder. The error should say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from anamnesis.errors import AnamnesisError, FormatError, UnsupportedError
from anamnesis.readers.text_links import path_in

HEAD_BYTES = 512  # enough for every row
_LINK = re.compile(r"(?!.*://)[^\s{}\[\]<>]*/[^\s{}\[\]<>]*")  # and no sentence, JSON, or URL


class Impostor(NamedTuple):
    """A row: the bytes that the other container has at `magic_at`."""

    magic: bytes
    what: str
    magic_at: int = 0


_HDF5 = "transformers 4 reads it (from_tf=True) and saves safetensors"
_BEFORE_GGUF = "the format before GGUF; llama.cpp's convert_llama_ggml_to_gguf.py converts most"
IMPOSTORS: tuple[Impostor, ...] = (
    Impostor(b"PK\x03\x04", "a ZIP archive (PyTorch checkpoint, NumPy .npz, …)"),
    Impostor(b"PK\x05\x06", "an empty ZIP archive"),
    Impostor(b"\x93NUMPY", "a NumPy .npy array"),
    Impostor(b"\x89HDF\r\n\x1a\n", f"an HDF5 file (Keras); {_HDF5}"),
    Impostor(b"\x1f\x8b", "gzip-compressed data"),
    Impostor(b"\x28\xb5\x2f\xfd", "Zstandard-compressed data"),
    Impostor(b"FEA1", "a Feather file of version 1"),
    Impostor(b"PAR1", "a Parquet file, for other engines (--to arrow writes what is read)"),
    Impostor(b"lmgg", f"a GGML file, {_BEFORE_GGUF}"),
    Impostor(b"fmgg", f"a GGMF file, {_BEFORE_GGUF}"),
    Impostor(b"tjgg", f"a GGJT file, {_BEFORE_GGUF}"),
    Impostor(b"algg", "a GGLA file, an adapter in the format before GGUF"),
    *(
        Impostor(bytes((0x80, n)), "a Python pickle that torch.save did not write")
        for n in (2, 3, 4, 5)
    ),
    Impostor(b"ustar", "a tar file (PyTorch's format before 0.2 is one); none is opened", 257),
)

_ORBAX = (
    "a part of an Orbax checkpoint (JAX), whose arrays are spread over a key-value store; "
    "orbax.checkpoint restores it"
)
# Containers without a signature, which only the ends of their names tell, and names in folders.
_NAMED: dict[str, str] = {
    ".h5": f"a Keras checkpoint (HDF5); {_HDF5}",
    ".msgpack": "a Flax checkpoint (msgpack), whose names and layouts are Flax's; transformers 4 "
    "reads it (from_flax=True) and saves safetensors",
    "_CHECKPOINT_METADATA": _ORBAX,
    "_METADATA": _ORBAX,
    "manifest.ocdbt": _ORBAX,
}

_TEXTS: tuple[tuple[bytes, str], ...] = (
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git-LFS pointer, not the file that it points to (run `git lfs pull`)",
    ),
    (b"<!doctype html", "an HTML page, not a model: the download gave an error or a login page"),
    (b"<html", "an HTML page, not a model: the download gave an error or a login page"),
    (b"<?xml", "an XML document, not a model: the download gave an error"),
    (b'{"error"', "a JSON error message, not a model: the download failed"),
    (b"Entry not found", "a server's error message, not a model: the download failed"),
)


def recognise(path: str, head: bytes, readable: str) -> AnamnesisError | None:
    """The error for a file whose first bytes are known to be something else, or None.

    FormatError for what is no container at all, UnsupportedError for those of another kind;
    `readable` lists what is understood instead.
    """
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for start, what in _TEXTS:
        if text.startswith(start.lower()):
            return FormatError(f"{path}: is {what}")
    link = path_in(head) if len(head) < HEAD_BYTES else None
    if link is not None and _LINK.fullmatch(link):
        return FormatError(
            f"{path}: holds the path {link!r} alone: a link stored as text, whose file is not here"
        )
    for row in IMPOSTORS:
        if head.startswith(row.magic, row.magic_at):
            return UnsupportedError(f"{path}: is {row.what}; readable are {readable}")
    what = _named(path)
    return UnsupportedError(f"{path}: is {what}; readable are {readable}") if what else None


def _named(path: str) -> str:
    """What the end of a name says; empty for most."""
    return next((what for end, what in _NAMED.items() if path.lower().endswith(end.lower())), "")


def foreign(names: Iterable[str]) -> str:
    """What a folder holds that has no weights of a kind that is read; empty for nothing known."""
    return next((f"{name} is {what}" for name in names if (what := _named(name))), "")
