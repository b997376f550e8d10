"""Integers that say how a tensor lies and that are stored beside it: they are read at once."""

from __future__ import annotations

from anamnesis.readers.base import Stored
from anamnesis.readers.files import Files

WIDTHS = {"I64": 8, "I32": 4}


def integers(stored: Stored, files: Files) -> tuple[int, ...]:
    """All numbers of a small I64 or I32 tensor, in row-major order."""
    size, file = WIDTHS[stored.dtype], files(stored.file)
    if stored.view is None:
        data = file.read(stored.offset, stored.nbytes)
    else:
        import numpy as np  # noqa: PLC0415 - only archives need more than a read

        from anamnesis.readers.raw import open_raw  # noqa: PLC0415

        raw = np.empty(stored.nbytes, np.uint8)
        open_raw(stored, file).read_into(0, raw)
        data = raw.tobytes()
    return tuple(
        int.from_bytes(data[at : at + size], "little", signed=True)
        for at in range(0, len(data), size)
    )
