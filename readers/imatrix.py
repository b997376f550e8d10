"""Importance matrices: how much each column of a tensor's matrices matters to its outputs.

llama.cpp's `llama-imatrix` measures them, and its quantisers weigh errors with them. There are two
formats: GGUF (`imatrix_gguf`), and one before it without a magic number (`imatrix_legacy`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anamnesis.errors import FormatError, UsageError
from anamnesis.limits import Limits, MiB
from anamnesis.readers.gguf_fields import MAGIC
from anamnesis.readers.imatrix_entry import Entry, Imatrix
from anamnesis.readers.imatrix_gguf import read_gguf
from anamnesis.readers.imatrix_legacy import read_legacy
from anamnesis.readers.source import SourceFile, open_source

_CHUNK = MiB


def open_imatrix(path: str, limits: Limits) -> Imatrix:
    """The importance matrix in a file, all of which is read once: sums must be finite, and not < 0.

    Raises UsageError when there is none, FormatError, LimitError, UnsupportedError,
    IntegrityError, OSError.
    """
    try:
        opened = open_source(path)
    except FileNotFoundError:
        raise UsageError(
            f"{path}: found no such file; output.imatrix (--imatrix) names the importance matrix, "
            "as llama-imatrix wrote it"
        ) from None
    with opened as file:
        if file.size >= len(MAGIC) and file.read(0, len(MAGIC)) == MAGIC:
            entries, datasets, chunks = read_gguf(path, limits)
        else:
            entries, datasets, chunks = read_legacy(file, limits)
        digest = _digest(file)
        _check_sums(file, entries)
        for entry in entries.values():
            file.check_unchanged(entry.file)
        return Imatrix(path, digest, entries, datasets, chunks)


def _chunks(file: SourceFile, offset: int, nbytes: int) -> Any:
    """The bytes from `offset` on, a part at a time, each in the same memory."""
    memory = memoryview(bytearray(min(_CHUNK, nbytes)))
    for at in range(0, nbytes, _CHUNK):
        part = memory[: min(_CHUNK, nbytes - at)]
        file.read_into(offset + at, part)
        yield part


def _digest(file: SourceFile) -> str:
    import xxhash  # noqa: PLC0415 - for importance matrices alone

    found = xxhash.xxh3_128()
    for part in _chunks(file, 0, file.size):
        found.update(part)
    return found.hexdigest()


def _check_sums(file: SourceFile, entries: Mapping[str, Entry]) -> None:
    """FormatError for a sum that cannot be one of squares."""
    import numpy as np  # noqa: PLC0415 - headers need no arrays

    for name, entry in entries.items():
        done = 0
        for part in _chunks(file, entry.offset, 4 * entry.count):
            sums = np.frombuffer(part, "<f4")
            wrong = np.flatnonzero(~((sums >= 0) & (sums < np.inf)))
            if len(wrong):
                at = done + int(wrong[0])
                raise FormatError(
                    f"{file.path}: importance matrix: {name!r:.200}: sum {at:,}, at byte "
                    f"{entry.offset + 4 * at:,}: found {sums[wrong[0]]}; allowed: finite, not < 0"
                )
            done += len(sums)


__all__ = ["Entry", "Imatrix", "open_imatrix"]
