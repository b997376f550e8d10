"""Pieces of tensors that are encoded: what travels to workers, and what a worker does with it.

What a part holds of a window lies together in its stored tensor, so that every window has its place
in the file, as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anamnesis.kernels.encoders import Form, Setting
from anamnesis.pipeline.work import Piece, PieceReceipt
from anamnesis.readers.dtypes import DTYPES
from anamnesis.writers.base import Slot

if TYPE_CHECKING:
    from anamnesis.pipeline.windows import Windows


@dataclass(frozen=True, slots=True)
class Encoded:
    """How a tensor is stored: an encoder with its settings, the form, and a slot a part.

    `statistics` are the numbers of the whole tensor that the form asks for; the pass that finds
    them comes before any window is encoded.
    """

    name: str
    settings: Mapping[str, Setting]
    form: Form
    slots: tuple[Slot, ...]
    statistics: Mapping[str, float] = field(default_factory=dict)

    def nbytes(self, start: int, stop: int) -> int:
        """Bytes stored of the encoder's units `[start, stop)`."""
        total = 0
        for part in self.form.parts:
            first, last = part.span(start, stop)
            total += (last - first) * DTYPES[part.dtype].bits // 8
        return total


@dataclass(frozen=True, slots=True)
class EncodedPiece(Piece):
    """A range of one tensor's units, to be stored as an encoder makes it."""

    encoded: Encoded

    @property
    def work_bytes(self) -> int:
        return self.encoded.nbytes(*self._units(self.start, self.stop))

    @property
    def memory_bytes(self) -> int:
        # Windows as float32, codes of a byte each, and the scales that glue makes of groups.
        elems = self.step.window_units * self.step.tensor.unit_elems
        return (
            self.step.memory_bytes
            + 7 * elems
            + self.encoded.nbytes(*self._units(0, self.step.window_units))
        )

    def write(self, windows: Windows, fd: int) -> tuple[PieceReceipt, ...]:
        """Encode the windows of the piece and store them; a receipt for each part."""
        import xxhash

        from anamnesis.pipeline.window_parts import WindowParts

        form, slots = self.encoded.form, self.encoded.slots
        parts_of = WindowParts(self.step, self.encoded)
        digests = [xxhash.xxh3_128() for _ in form.parts]
        for window, _, values in windows.over(self.start, self.stop):
            start, stop = self._units(window.start, window.stop)
            found = parts_of.encode(values, start, stop)
            for part, slot, digest in zip(form.parts, slots, digests, strict=True):
                first, last = part.span(start, stop)
                if last > first:
                    digest.update(found[part.role])
                    slot.write(fd, first, found[part.role])
        start, stop = self._units(self.start, self.stop)
        spans = [part.span(start, stop) for part in form.parts]
        return tuple(
            PieceReceipt(part.name, first, last, digest.hexdigest())
            for part, (first, last), digest in zip(form.parts, spans, digests, strict=True)
            if last > first
        )

    def _units(self, start: int, stop: int) -> tuple[int, int]:
        """The encoder's units of a range of the tensor's own, which starts where a window may."""
        tensor, unit = self.step.tensor, self.encoded.form.unit_elems
        first, last = start * tensor.unit_elems, min(stop * tensor.unit_elems, tensor.elems)
        return first // unit, -(-last // unit)
