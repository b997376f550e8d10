"""From a window's values to the parts that an encoder makes of it, in reused memory.

A window of values, in the dtype that the tensor is decoded to, becomes float32 in a buffer that is
used again, and the encoder fills one buffer a part.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xxhash

from anamnesis.kernels.encoders import Part, encoder
from anamnesis.pipeline.encoding import Encoded, EncodedPiece
from anamnesis.pipeline.windows import Windows
from anamnesis.pipeline.work import PieceReceipt, Step
from anamnesis.readers.dtypes import DTYPES

_HELD = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}


class WindowParts:
    """Makes the parts of a tensor's windows, one window after the other."""

    def __init__(self, step: Step, encoded: Encoded) -> None:
        """Make the buffers that windows of `step` need."""
        elems = step.window_units * step.tensor.unit_elems
        units = -(-elems // encoded.form.unit_elems)
        self._dtype, self._parts = step.dtype, encoded.form.parts
        self._wide = np.empty(elems, np.float32)
        self._room = {part.role: _room(part, units) for part in self._parts}
        self._encode = encoder(encoded.name)
        self._params: dict[str, Any] = {
            **encoded.settings,
            **encoded.statistics,
            "dtype": step.dtype,
            "columns": encoded.form.unit_elems,
            "shape": step.tensor.shape,
        }

    def encode(self, values: Any, start: int, stop: int) -> dict[str, Any]:
        """The parts of a window, by role; the next one overwrites them."""
        out = {}
        for part in self._parts:
            out[part.role] = self._room[part.role][: part.room(start, stop)]
        wide = widened(values, self._dtype, self._wide)
        self._encode(wide, {**self._params, "first": start}, out)
        return out


def write_encoded(piece: EncodedPiece, windows: Windows, fd: int) -> tuple[PieceReceipt, ...]:
    """Encode the windows of the piece and store them; a receipt for each part."""
    form, slots = piece.encoded.form, piece.encoded.slots
    parts_of = WindowParts(piece.step, piece.encoded)
    digests = [xxhash.xxh3_128() for _ in form.parts]
    for window, _, values in windows.over(piece.start, piece.stop):
        start, stop = piece.units(window.start, window.stop)
        found = parts_of.encode(values, start, stop)
        for part, slot, digest in zip(form.parts, slots, digests, strict=True):
            first, last = part.span(start, stop)
            if last > first:
                digest.update(found[part.role])
                slot.write(fd, first, found[part.role])
    start, stop = piece.units(piece.start, piece.stop)
    spans = [part.span(start, stop) for part in form.parts]
    return tuple(
        PieceReceipt(part.name, first, last, digest.hexdigest())
        for part, (first, last), digest in zip(form.parts, spans, digests, strict=True)
        if last > first
    )


def _room(part: Part, units: int) -> Any:
    kind = np.uint8 if part.block_bytes else DTYPES[part.dtype].numpy
    return np.zeros(part.room(0, units), kind)


def widened(values: Any, dtype: str, room: Any = None) -> Any:
    """A window's values, of BF16 bits, binary16 or float32, as float32 in `room`, or new."""
    held = values.view(_HELD[dtype])
    wide = np.empty(len(held), np.float32) if room is None else room[: len(held)]
    if held.dtype == np.uint16:
        np.left_shift(held, 16, out=wide.view(np.uint32), dtype=np.uint32)
    else:
        wide[:] = held
    return wide
