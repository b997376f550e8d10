"""How far two arrays of float32 are apart: the sums of one pass, for `diff`.

All sums are of float64 and run in eight lanes: element `i` of a call goes to lane `i % 8`, in
order, and no product is contracted into an addition. So the sums of the same calls are the same
bits on every machine, whatever the width of its vectors; the numpy twin, which runs without
the compiler, gives those bits too. LLVM may not reorder a float sum into lanes by itself, so the
loop is written as vectors here.

Only pairs of finite numbers count in the sums. The others are rare, and are counted by numpy.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from anamnesis.kernels._narrow import bf16_bits
from anamnesis.kernels._native import kernel
from anamnesis.kernels.bits import to_float32
from anamnesis.kernels.types import Array, Floats

LANES = 8
STEP = 2 * LANES
# Rows of the state: |a-b| summed and its maximum, then sums of (a-b)^2, a^2, b^2 and ab.
SUM, MAX, NOISE, SIGNAL, OTHER, DOT = range(6)
_reduce = kernel("diff:reduce")


class Sums(NamedTuple):
    """What a comparison adds up to; counts are of elements, sums of finite pairs alone.

    `equal` counts pairs whose BF16 bits are equal; any two NaNs are. `nan_a` and `nan_b` count NaNs
    on that side alone, `nan_both` on both; `inf_differs` counts other pairs with an infinity
    on one side that is not on the other.
    """

    elems: int = 0
    finite: int = 0
    equal: int = 0
    nan_a: int = 0
    nan_b: int = 0
    nan_both: int = 0
    inf_differs: int = 0
    max_abs: float = 0.0
    sum_abs: float = 0.0
    noise: float = 0.0  # sum of (a - b)^2
    signal: float = 0.0  # sum of a^2
    other: float = 0.0  # sum of b^2
    dot: float = 0.0  # sum of a b

    def __add__(self, more: Sums) -> Sums:  # type: ignore[override]
        """Both together. The order of additions is the caller's, and counts in the last bits."""
        joined: Any = [x + y for x, y in zip(self, more, strict=True)]
        joined[self._fields.index("max_abs")] = max(self.max_abs, more.max_abs)
        return Sums(*joined)


class Comparison:
    """Sums that grow call by call; equal calls give equal bits."""

    def __init__(self) -> None:
        self._state: Any = np.zeros((6, LANES))
        self._counts: Any = np.zeros(2, np.int64)  # finite pairs, equal ones among them
        self._last: Any = np.zeros((2, STEP), np.float32)
        self._rest = Sums()

    def add(self, a: Array, b: Array) -> None:
        """Compare two contiguous arrays of one dimension and the same length.

        Both are of float32; the first may be BF16's bits.
        """
        elems = len(a)
        whole = elems // STEP * STEP
        before = int(self._counts[0])
        _reduce(a[:whole], b[:whole], self._state, self._counts)
        if whole < elems:  # zeros are finite, equal, and add nothing to a sum
            self._last[:] = 0
            self._last[0, : elems - whole] = as_float32(a[whole:])
            self._last[1, : elems - whole] = b[whole:]
            first, second = self._last
            _reduce(first, second, self._state, self._counts)
            self._counts -= whole + STEP - elems
        finite = int(self._counts[0]) - before
        self._rest += Sums(elems=elems) if finite == elems else others(as_float32(a), b)

    def result(self) -> Sums:
        """The sums so far."""
        return summed(self._state, *map(int, self._counts)) + self._rest


def summed(state: Array, finite: int, equal: int) -> Sums:
    """The sums of lanes, float64 `[6, lanes]`, and both counts."""
    lanes = [math.fsum(row) for row in state]
    return Sums(
        finite=finite,
        equal=equal,
        max_abs=float(state[MAX].max()),
        sum_abs=lanes[SUM],
        noise=lanes[NOISE],
        signal=lanes[SIGNAL],
        other=lanes[OTHER],
        dot=lanes[DOT],
    )


def metrics(sums: Sums) -> dict[str, float]:
    """Figures of merit, as the table of a diff has them.

    SQNR is 10 log10(sum a^2 / sum (a-b)^2) in dB: inf without error, -inf where A is zero and B
    is not. The relative error is the same ratio's root, |a-b| / |a|: 0 without error. The cosine
    is NaN where one side is all zeros. All are NaN where no pair is finite.
    """
    nothing = sums.finite == 0
    mean = math.nan if nothing else sums.sum_abs / sums.finite
    rms = math.nan if nothing else math.sqrt(sums.noise / sums.finite)
    norms = math.sqrt(sums.signal) * math.sqrt(sums.other)
    # Rounding of the last bits may take the quotient past 1, where no cosine is.
    cosine = min(1.0, max(-1.0, sums.dot / norms)) if norms else math.nan
    return {
        "max_abs_error": math.nan if nothing else sums.max_abs,
        "mean_abs_error": mean,
        "rms_error": rms,
        "relative_error": math.nan if nothing else _relative(sums),
        "sqnr_db": math.nan if nothing else sqnr_db(sums.signal, sums.noise),
        "cosine": cosine,
    }


def sqnr_db(signal: float, noise: float) -> float:
    """Signal to quantisation noise in dB, of sums of squares; see `metrics` for the ends."""
    if noise == 0:
        return math.inf
    if signal == 0:
        return -math.inf
    return 10 * (math.log10(signal) - math.log10(noise))


def _relative(sums: Sums) -> float:
    if sums.noise == 0:
        return 0.0
    return math.sqrt(sums.noise) / math.sqrt(sums.signal) if sums.signal else math.inf


def others(a: Floats, b: Floats) -> Sums:
    """Count the pairs that are not finite."""
    elems = len(a)
    where = np.flatnonzero(~(np.isfinite(a) & np.isfinite(b)))
    a, b = a[where], b[where]
    nan_a, nan_b = np.isnan(a), np.isnan(b)
    both = int(np.count_nonzero(nan_a & nan_b))
    neither = ~(nan_a | nan_b)
    same = int(np.count_nonzero(bf16_bits(a[neither]) == bf16_bits(b[neither])))
    return Sums(
        elems=elems,
        equal=both + same,
        nan_a=int(np.count_nonzero(nan_a)) - both,
        nan_b=int(np.count_nonzero(nan_b)) - both,
        nan_both=both,
        inf_differs=int(np.count_nonzero(a[neither] != b[neither])),
    )


def as_float32(values: Array) -> Array:
    """Numbers of float32 as they are, and those of BF16's bits."""
    return to_float32("BF16", values) if values.dtype == np.uint16 else values


def reduce_numpy(a: Floats, b: Floats, state: Array, counts: Array) -> None:
    """What `_reduce` does, of whole steps; the same bits."""
    a = as_float32(a)
    finite = np.isfinite(a) & np.isfinite(b)
    counts[0] += np.count_nonzero(finite)
    counts[1] += np.count_nonzero(finite & (bf16_bits(a) == bf16_bits(b)))
    x = np.where(finite, a, np.float32(0)).astype(np.float64).reshape(-1, LANES)
    y = np.where(finite, b, np.float32(0)).astype(np.float64).reshape(-1, LANES)
    distance = np.abs(x - y)
    state[MAX] = np.maximum(state[MAX], distance.max(axis=0, initial=0))
    terms = ((SUM, distance), (NOISE, distance * distance), (SIGNAL, x * x))
    for row, added in (*terms, (OTHER, y * y), (DOT, x * y)):
        state[row] = np.add.reduce(np.vstack([state[row], added]), axis=0)
