"""Pieces of tensors that are encoded: what travels to workers, and what a worker does with it.

What a part holds of a window lies together in its stored tensor, so that every window has its place
in the file, as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from anamnesis.kernels.encoders import Form, Setting
from anamnesis.pipeline.importance import Weights
from anamnesis.pipeline.work import Piece
from anamnesis.readers.dtypes import DTYPES
from anamnesis.record import record
from anamnesis.writers.base import Slot


@dataclass(frozen=True, slots=True)
class Encoded:
    """How a tensor is stored: an encoder with its settings, the form, and a slot a part.

    `statistics` are the numbers of the whole tensor that the form asks for; the pass that finds
    them comes before any window is encoded. With `moved`, codes and scales are those of the source;
    windows whose numbers the target does not have are encoded from values if `requantize`. With
    `skip_loss` what is encoded is not decoded again for the report. `weights` are what errors in
    the columns count.
    """

    name: str
    settings: Mapping[str, Setting]
    form: Form
    slots: tuple[Slot, ...]
    statistics: Mapping[str, float] = field(default_factory=dict)
    moved: bool = False
    requantize: bool = False
    skip_loss: bool = False
    weights: Weights | None = None

    def part_dtype(self, role: str, default: str) -> str:
        """The dtype of a part, where the form has it."""
        return next((part.dtype for part in self.form.parts if part.role == role), default)

    def nbytes(self, start: int, stop: int) -> int:
        """Bytes stored of the encoder's units `[start, stop)`."""
        total = 0
        for part in self.form.parts:
            bits = 8 if part.block_bytes else DTYPES[part.dtype].bits
            total += part.room(start, stop) * bits // 8
        return total


@record(frozen=True, slots=True)
class EncodedPiece(Piece):
    """A range of one tensor's units, to be stored as an encoder makes it."""

    encoded: Encoded

    @property
    def work_bytes(self) -> int:
        return self.encoded.nbytes(*self.units(self.start, self.stop))

    @property
    def memory_bytes(self) -> int:
        # Windows as float32, codes of a byte each, the scales that glue makes of groups, and what
        # is decoded again; what codes are moved through.
        elems = self.step.window_units * self.step.tensor.unit_elems
        weights = self.encoded.weights
        return (
            self.step.memory_bytes
            + (16 * weights.columns if weights else 0)
            + (21 if self.encoded.moved else 12) * elems
            + self.encoded.nbytes(*self.units(0, self.step.window_units))
        )

    def units(self, start: int, stop: int) -> tuple[int, int]:
        """The encoder's units of a range of the tensor's own, which starts where a window may."""
        tensor, unit = self.step.tensor, self.encoded.form.unit_elems
        first, last = start * tensor.unit_elems, min(stop * tensor.unit_elems, tensor.elems)
        return first // unit, -(-last // unit)
