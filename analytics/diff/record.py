"""What a comparison found, before anybody shows or writes it: a row a tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from anamnesis.kernels.diff import Sums, metrics

Status = Literal["compared", "not compared", "only in a", "only in b"]
FIGURES = ("max_abs_error", "mean_abs_error", "rms_error", "relative_error", "sqnr_db", "cosine")
COUNTS = ("bits_equal", "nan_a", "nan_b", "nan_both", "inf_differs")


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor. Only a row with status `compared` has sums; `why` says why another has none.

    `tensor` is A's name, or B's of one that only B has; `tensor_b` is B's where the two are a pair.
    """

    tensor: str
    tensor_b: str | None
    layer: int | None
    module: str
    shape: tuple[int, ...]
    scheme_a: str | None
    scheme_b: str | None
    status: Status = "compared"
    why: str | None = None
    sums: Sums | None = None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def sqnr_db(self) -> float:
        """Signal to quantisation noise in dB, of the finite pairs; NaN where there are none."""
        return metrics(self.sums)["sqnr_db"] if self.sums else math.nan

    @property
    def rank(self) -> float:
        """What rows are sorted by: SQNR, and infinity where nothing was there to differ."""
        sqnr = self.sqnr_db
        return math.inf if math.isnan(sqnr) else sqnr

    @property
    def identical(self) -> bool:
        """Whether every element has the same BF16 bits on both sides (any two NaNs have)."""
        return self.sums is not None and self.sums.equal == self.sums.elems

    @property
    def broken(self) -> int:
        """Elements that are NaN or infinite on one side and something else on the other."""
        return self.sums.nan_a + self.sums.nan_b + self.sums.inf_differs if self.sums else 0

    def to_dict(self) -> dict[str, Any]:
        """The row as the table has it; figures are None where there are no sums."""
        figures: dict[str, Any] = metrics(self.sums) if self.sums else dict.fromkeys(FIGURES)
        counts: dict[str, Any] = dict.fromkeys(COUNTS)
        if self.sums:
            counts = {"bits_equal": self.sums.equal}
            counts |= {name: getattr(self.sums, name) for name in COUNTS[1:]}
        return {
            "tensor": utf8(self.tensor),
            "tensor_b": None if self.tensor_b is None else utf8(self.tensor_b),
            "status": self.status,
            "why": self.why,
            "layer": self.layer,
            "module": utf8(self.module),
            "shape": list(self.shape),
            "elements": self.elements,
            "scheme_a": self.scheme_a,
            "scheme_b": self.scheme_b,
            **figures,
            **counts,
        }


@dataclass(frozen=True, slots=True)
class Findings:
    """Two checkpoints compared. `rows` begin with the compared tensors, worst first."""

    a: str
    b: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def compared(self) -> tuple[Row, ...]:
        """Rows with figures, worst first: what is broken, then by rising SQNR."""
        return tuple(row for row in self.rows if row.status == "compared")

    @property
    def others(self) -> tuple[Row, ...]:
        """Rows without figures: another shape or dtype, or no partner."""
        return tuple(row for row in self.rows if row.status != "compared")

    @property
    def total(self) -> Sums:
        """All compared tensors as if they were one."""
        return add_up(row for row in self.compared)

    def summary(self) -> str:
        """One sentence on the whole."""
        compared, total = self.compared, self.total
        if not compared:
            return f"nothing compared, {len(self.others)} of another shape or kind or on one side"
        same = sum(row.identical for row in compared)
        count = "all" if same == len(compared) else str(same) if same else "none"
        plural = "" if len(compared) == 1 else "s"
        text = f"{len(compared)} tensor{plural} compared, {count} with equal BF16 bits"
        if total.noise:
            text += f"; {decibels(metrics(total)['sqnr_db'])} over all"
        if self.others:
            text += f"; {len(self.others)} not compared"
        return text


def add_up(rows: Iterable[Row]) -> Sums:
    """The sums of several rows together; NaN and infinities are left out, as in each."""
    total = Sums()
    for row in rows:
        total += row.sums or Sums()
    return total


def decibels(value: float) -> str:
    """`31.4 dB`; `no error` for infinity, as where both sides are equal."""
    if math.isnan(value):
        return "none"
    if math.isinf(value):
        return "no error" if value > 0 else "-inf dB"
    return f"{value:.1f} dB"


def utf8(text: str) -> str:
    """Text that UTF-8 can hold: what a file calls its things may be half of a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode()


def finite(document: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity and no NaN."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in document.items()
    }
