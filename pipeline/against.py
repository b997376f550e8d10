"""Decode an input again and compare it with what was recorded of an output."""

from __future__ import annotations

import random
from pathlib import Path

import xxhash

from anamnesis.errors import IntegrityError, UnsupportedError, UsageError
from anamnesis.names.open import open_named
from anamnesis.pipeline.journal import load_manifest
from anamnesis.pipeline.plan import step_for, with_dtype
from anamnesis.pipeline.windows import Windows
from anamnesis.readers.base import Tensor
from anamnesis.readers.files import Files


def decode_again(out: Path, source: str, sample: float) -> dict[str, int]:
    """Decode a share of the recorded pieces from `source`; which ones depends on the output alone.

    Returns counts (`pieces`, `pieces_decoded`). Raises IntegrityError for the first that differs,
    UsageError when `source` has not the tensors of the output.
    """
    manifest = load_manifest(out, strangers=True)
    if manifest.encode:
        raise UnsupportedError(
            f"{out}: is encoded as {manifest.encode}; what can be decoded again and compared is "
            "an output of recovered values (verify without --against holds its checksums)"
        )
    tensors = {t.name: t for t in open_named(source, manifest.options).tensors}
    dtypes = {item.name: item.dtype for item in manifest.layout_items()}
    pieces = manifest.pieces
    count = min(len(pieces), max(1, round(sample * len(pieces))))
    chosen = sorted(random.Random(out.name).sample(range(len(pieces)), count))
    files = Files()
    try:
        for number in chosen:
            name, start, stop, expected = pieces[number]
            if name not in tensors:
                raise UsageError(f"{source}: has no tensor {name!r}, which {out} has")
            found = _digest(with_dtype(tensors[name], dtypes[name]), start, stop, files)
            if found != expected:
                raise IntegrityError(
                    f"{out}: tensor {name!r}: elements {start:,} to {stop:,} differ from {source} "
                    f"(xxh3-128 {expected} was recorded, {found} is decoded now)"
                )
        files.check_unchanged()
    finally:
        files.close()
    return {"pieces": len(pieces), "pieces_decoded": count}


def _digest(tensor: Tensor, start: int, stop: int, files: Files) -> str:
    digest = xxhash.xxh3_128()
    first, last = start // tensor.unit_elems, -(-stop // tensor.unit_elems)
    for _, _, values in Windows(step_for(tensor), files).over(first, last):
        digest.update(values)
    return digest.hexdigest()
