"""What encoding lost, a row a tensor: from pieces, through journals and manifests, to figures.

Workers add up a piece's windows; pieces are added in the order of the tensor, so that a row is the
same bits from every executor. A row is kept with its file, as the checksums are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from anamnesis.readers.base import Tensor

if TYPE_CHECKING:
    from anamnesis.kernels.diff import Sums
    from anamnesis.kernels.loss import Lost

_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Counts = tuple[_Count, _Count, _Count, _Count, _Count, _Count, _Count]
_Sums = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class PieceLoss:
    """What the piece of a tensor that begins with unit `start` lost; `payload` is stored first."""

    tensor: str
    payload: str
    start: int
    lost: Lost


class TensorLoss(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a tensor lost when it was encoded as `target`.

    `payload` is the name of the codes, `source` the scheme it had before. The SQNR is in dB, the
    relative error the norm of the error over that of the tensor: None where there is none, and the
    SQNR where nothing was lost. `clipped` numbers lie past the ends of their groups by more than
    half a step. `counts` and `sums` are those of `kernels.diff.Sums`, in order.
    """

    tensor: str
    payload: str
    target: str
    source: str
    shape: tuple[_Count, ...]
    sqnr_db: float | None
    relative_error: float | None
    clipped: _Count
    clipped_share: float
    counts: _Counts
    sums: _Sums

    @property
    def not_finite(self) -> int:
        """Numbers that are NaN or infinite, before or after; no sum has them."""
        return self.counts[0] - self.counts[1]

    @property
    def is_lost(self) -> bool:
        """Whether no number of it is finite before and after."""
        return 0 < self.counts[0] == self.not_finite

    @property
    def compared(self) -> Sums:
        """The sums as `diff` has them."""
        from anamnesis.kernels.diff import Sums

        return Sums(*self.counts, *self.sums)


Losses = Sequence[TensorLoss]


def added_up(
    found: Iterable[PieceLoss], tensors: Mapping[str, tuple[Tensor, str]]
) -> list[TensorLoss]:
    """A row a tensor, sorted by name; `tensors` are the tensors with their targets, by name."""
    lost: dict[tuple[str, str], Lost] = {}
    for piece in sorted(found, key=lambda p: (p.tensor, p.start)):
        key = piece.tensor, piece.payload
        before = lost.get(key)
        lost[key] = piece.lost if before is None else before + piece.lost
    return [_row(*key, *tensors[key[0]], total) for key, total in lost.items()]


def _row(name: str, payload: str, tensor: Tensor, target: str, total: Lost) -> TensorLoss:
    from anamnesis.kernels.diff import metrics

    found = {k: v if isfinite(v) else None for k, v in metrics(total.sums).items()}
    numbers: Any = tuple(total.sums)
    return TensorLoss(
        tensor=name,
        payload=payload,
        target=target,
        source=tensor.scheme,
        shape=tensor.shape,
        sqnr_db=found["sqnr_db"],
        relative_error=found["relative_error"],
        clipped=total.clipped,
        clipped_share=total.clipped / max(1, total.sums.elems),
        counts=numbers[:7],
        sums=numbers[7:],
    )


__all__ = ["Losses", "PieceLoss", "TensorLoss", "added_up"]
