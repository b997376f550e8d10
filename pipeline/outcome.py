"""What a run made, as callers have it."""

from __future__ import annotations

from dataclasses import dataclass

from anamnesis.pipeline.html import html_table
from anamnesis.pipeline.loss import TensorLoss
from anamnesis.pipeline.units import size


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run made. Bytes are payload read and values written; seconds are wall time.

    `resumed` counts files that an earlier run had finished. `notes` are remarks on the input and
    on settings, which the command line prints. `loss` has a row for each tensor that was encoded,
    by name.
    """

    path: str
    files: tuple[str, ...]
    tensors: int
    read_bytes: int
    out_bytes: int
    seconds: float
    resumed: int = 0
    notes: tuple[str, ...] = ()
    loss: tuple[TensorLoss, ...] = ()

    def _repr_html_(self) -> str:
        kept = f", {self.resumed} of them done before" if self.resumed else ""
        title = (
            f"{self.path}: {self.tensors:,} tensors, {size(self.out_bytes)} in "
            f"{self.seconds:.2f} s, {len(self.files)} file(s){kept}"
        )
        rows = ([file] for file in self.files)
        return html_table(title, ["file"], rows, len(self.files), self.notes)


__all__ = ["Outcome"]
