"""The manifest beside an output: what was made of what, and a checksum for every piece.

It is small JSON: the tensors in the order they were laid out, from which the layout is computed
again, and for every piece the xxh3-128 of its value bytes. `verify` needs nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xxhash

from anamnesis.errors import FormatError, IntegrityError, UsageError
from anamnesis.limits import INDEX_BYTES, Limits, MiB
from anamnesis.pipeline.plan import Plan
from anamnesis.pipeline.task import Receipt
from anamnesis.readers.source import LocalFile
from anamnesis.readers.strict_json import loads
from anamnesis.writers import writer
from anamnesis.writers.base import Item, Layout

VERSION = 1


def manifest_path(out: Path) -> Path:
    """Where the manifest of an output file or folder lies: beside it.

    Not inside a folder, which engines may read as a dataset of all the files in it.
    """
    return out.with_name(out.name + ".anamnesis.json")


def manifest(plan: Plan, receipts: Iterable[Receipt]) -> bytes:
    """The manifest of a finished plan."""
    pieces = sorted(
        (piece.tensor, piece.start, piece.stop, piece.xxh3)
        for receipt in receipts
        for piece in receipt.pieces
    )
    document = {
        "anamnesis": VERSION,
        "format": plan.spec.format,
        "max_shard_bytes": plan.spec.max_shard_bytes,
        "inputs": [[f.path, f.size, f.mtime_ns] for f in plan.model.files],
        "files": [[Path(f.path).name, f.nbytes] for f in plan.layout.files],
        "items": [[i.name, list(i.shape), i.dtype, i.elems, i.scheme] for i in plan.items],
        "pieces": pieces,
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def verify_output(out: Path) -> dict[str, int]:
    """Read an output again and compare it with its manifest.

    Returns counts (`files`, `tensors`, `bytes`). Raises IntegrityError naming the file and the
    tensor that differ, UsageError when there is no manifest.
    """
    document = _load(manifest_path(out))
    items = tuple(
        Item(name, tuple(shape), dtype, elems, scheme)
        for name, shape, dtype, elems, scheme in document["items"]
    )
    module = writer(document["format"])
    layout = module.layout(items, out, document["max_shard_bytes"])
    for file in layout.files:
        module.check(Path(file.path), file)
    places = {item.name: place for item, place in zip(items, layout.places, strict=True)}
    total = _compare(layout, places, document["pieces"])
    return {"files": len(layout.files), "tensors": len(items), "bytes": total}


def _compare(layout: Layout, places: dict[str, Any], pieces: list[Any]) -> int:
    total = 0
    opened: dict[int, LocalFile] = {}
    buffer = bytearray(MiB)
    try:
        for name, start, stop, expected in pieces:
            number, slot = places[name]
            file = opened.get(number)
            if file is None:
                file = opened[number] = LocalFile(layout.files[number].path)
            digest = xxhash.xxh3_128()
            for offset, nbytes in slot.ranges(start, stop):
                for done in range(0, nbytes, len(buffer)):
                    view = memoryview(buffer)[: min(len(buffer), nbytes - done)]
                    file.read_into(offset + done, view)
                    digest.update(view)
                total += nbytes
            if digest.hexdigest() != expected:
                raise IntegrityError(
                    f"{file.path}: tensor {name!r}: elements {start:,} to {stop:,} are not what "
                    f"was written (xxh3-128 {digest.hexdigest()}, recorded {expected})"
                )
    finally:
        for file in opened.values():
            file.close()
    return total


def _load(path: Path) -> dict[str, Any]:
    try:
        with LocalFile(path) as file:
            Limits().alloc(file.size, str(path), INDEX_BYTES)
            document = loads(file.read(0, file.size), str(path), Limits())
    except FileNotFoundError:
        raise UsageError(
            f"{path}: no manifest; only outputs of this program can be verified"
        ) from None
    if not isinstance(document, dict) or document.get("anamnesis") != VERSION:
        raise FormatError(f"{path}: not a manifest of version {VERSION}")
    return document
