"""What journals and manifests say, read strictly: every field with its type, every element covered.

A checksum keeps out accidents. Whoever writes the checksum too can write anything, so nothing in
here is believed: a value of another type or out of its range is a FormatError that names it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from anamnesis.errors import FormatError, IntegrityError, LimitError, UnsupportedError, UsageError
from anamnesis.limits import RANK
from anamnesis.pipeline.encoded_rows import EncodedRow, check_rows
from anamnesis.pipeline.loss import TensorLoss
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.gguf_types import GGML_TYPES
from anamnesis.readers.schemes.base import Options
from anamnesis.writers import WRITERS, writer
from anamnesis.writers.base import Item, Layout, Storage
from anamnesis.writers.stores import located, store_of

VERSION = 1
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
Piece = tuple[str, Count, Count, Digest]  # tensor, start, stop, xxh3-128; elements
Pieces = Sequence[Piece]
Elems = Mapping[str, int]  # of every tensor
T = TypeVar("T")
_COMPRESSIONS = ("none", "lz4", "zstd")
_BF16 = ("extension", "uint16", "float32")


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A line of a journal: a finished file, its pieces, and what it is made of, if recorded.

    `loss` is what the tensors lost that were encoded.
    """

    inputs: Digest
    settings: Digest
    name: str
    pieces: list[Piece]
    content: str = ""
    loss: list[TensorLoss] = []


class ItemRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A tensor of an output, with the fields of `Item`."""

    name: str
    shape: tuple[Count, ...]
    dtype: str
    elems: Count
    scheme: str
    joined: bool = False


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A complete output. `inputs` are names, sizes and times; `files` are names and sizes.

    `notes` are the remarks that were made on the input, `encode` what was asked for, in words, and
    `encoded` how each tensor was encoded (version 0.2.0 left that out).
    """

    anamnesis: Literal[1]
    format: str
    max_shard_bytes: Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
    inputs: list[tuple[str, Count, int]]
    recipe: tuple[Digest, Digest]
    files: list[tuple[str, Count]]
    items: list[ItemRow]
    pieces: list[Piece]
    options: Options = Options()
    storage: Storage = Storage()
    others: list[str] = []
    encode: str = ""
    encoded: list[EncodedRow] = []
    notes: list[str] = []
    loss: list[TensorLoss] = []

    def layout_items(self) -> tuple[Item, ...]:
        """The tensors, in the order they were laid out."""
        return tuple(
            Item(i.name, i.shape, i.dtype, i.elems, i.scheme, i.joined) for i in self.items
        )


def read_entry(value: Any, what: str) -> Entry:
    """A line of a journal from its JSON value; `what` names the file and the line."""
    return _convert(value, Entry, what)


def read_manifest(document: Any, what: str) -> Manifest:
    """A manifest from its JSON value without the checksum; `what` names the file.

    Raises FormatError for a field that is missing, unknown, of another type or not possible, and
    for pieces that leave out elements of a tensor, or hold any twice.
    """
    for key, kind in (("options", Options), ("storage", Storage)):
        unknown = _keys(document.get(key)) - {field.name for field in fields(kind)}
        if unknown:
            raise FormatError(f"{what}: {key}: found {min(unknown)!r:.100}, which is no field")
    found = _convert(document, Manifest, what)
    _one_of(found.format, WRITERS, f"{what}: format")
    _one_of(found.storage.compression, _COMPRESSIONS, f"{what}: storage.compression")
    _one_of(found.storage.bf16, _BF16, f"{what}: storage.bf16")
    dtypes = {*DTYPES, *(t.name for t in GGML_TYPES.values() if found.format == "gguf")}
    stem = found.storage.stem
    if os.path.basename(stem) != stem or stem[:1] in ("", "."):
        raise FormatError(f"{what}: storage.stem: {stem!r:.100} is no file's name")
    elems: dict[str, int] = {}
    for number, item in enumerate(found.items):
        field = f"{what}: items[{number}]: tensor {item.name!r:.200}"
        if item.name in elems:
            raise FormatError(f"{field}: is there twice")
        if len(item.shape) > RANK or math.prod(item.shape) != item.elems:
            shape = list(item.shape[:RANK])
            raise FormatError(f"{field}: {item.elems:,} elements; its shape is {shape}")
        _one_of(item.dtype, dtypes, f"{field}: dtype")
        elems[item.name] = item.elems
    check_cover(elems, found.pieces, what)
    check_rows(found.encoded, what)
    return found


def check_cover(elems: Elems, pieces: Iterable[Piece], what: str) -> None:
    """FormatError unless pieces hold every element of every tensor once, and nothing else."""
    reached = dict.fromkeys(elems, 0)
    for name, start, stop, _ in sorted(pieces):
        piece = f"{what}: pieces: tensor {name!r:.200}: elements {start:,} to {stop:,}"
        if name not in reached:
            raise FormatError(f"{piece}: there is no such tensor")
        if start != reached[name] or not start <= stop <= elems[name]:
            raise FormatError(
                f"{piece} where those from {reached[name]:,} on are next, of {elems[name]:,}"
            )
        reached[name] = stop
    for name, stop in reached.items():
        if stop != elems[name]:
            raise FormatError(
                f"{what}: pieces: tensor {name!r:.200}: elements from {stop:,} on of "
                f"{elems[name]:,} are in none"
            )


def check_files(manifest: Manifest, layout: Layout, what: str) -> None:
    """Hold the recorded files against what is laid out and what is there.

    Raises FormatError where there are others, IntegrityError where one has another size, OSError.
    """
    if len(manifest.files) != len(layout.files):
        raise FormatError(
            f"{what}: files: {len(manifest.files):,} are recorded; the tensors make "
            f"{len(layout.files):,}"
        )
    for (_, nbytes), file in zip(manifest.files, layout.files, strict=True):
        size = store_of(file.path).size(located(file.path))
        if size != nbytes:
            raise IntegrityError(f"{file.path}: has {size:,} bytes, recorded are {nbytes:,}")


def lay_out(manifest: Manifest, out: PurePath, what: str) -> Layout:
    """Where everything is in the output at `out`.

    Raises FormatError where no output can be so, LimitError.
    """
    items, storage = manifest.layout_items(), manifest.storage
    try:
        module = writer(manifest.format)
        return module.layout(items, out, manifest.max_shard_bytes, storage)
    except (FormatError, UnsupportedError, UsageError) as error:
        raise FormatError(f"{what}: {error}") from error
    except LimitError as error:
        text = f"{what}: {error}"
        raise LimitError(text, limit=error.limit, need=error.need, have=error.have) from error


def _keys(value: Any) -> set[str]:
    return set(value) if isinstance(value, dict) else set()


def _one_of(found: str, allowed: Iterable[str], field: str) -> None:
    if found not in allowed:
        raise FormatError(f"{field}: found {found!r:.100}; allowed: {', '.join(sorted(allowed))}")


def _convert(value: Any, kind: type[T], what: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text, _, at = str(error).partition(" - at `$")
        field = at.rstrip("`").lstrip(".")
        if issubclass(kind, Entry):  # whose fields are items of a list, and have numbers
            field = re.sub(r"^\[(\d)\]", lambda m: kind.__struct_fields__[int(m[1])], field)
        raise FormatError(f"{what}: {field}: {text}" if field else f"{what}: {text}") from None
