"""Values to figures: what is counted of one leaf, small, and put together in order.

| values | how | mean and std |
|---|---|---|
| BF16, F16, I8, U8, I16, U16, BOOL | counts by bit pattern | exact sums, one rounding |
| F32 | sums of significands by exponent | exact sums, one rounding |
| F64, I32, U32, I64, U64 | float64 by window, windows joined in order | float64 |
| C64, C128 | zeros, NaN and infinities only | none |

Minimum, maximum, largest magnitude, mean and standard deviation (of the population) are those of
the finite values; NaN and infinities are counted instead. Joining windows: Chan, Golub, LeVeque,
"Updating Formulae and a Pairwise Algorithm for Computing Sample Variances" (1979).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from anamnesis.kernels import stats as kernels
from anamnesis.readers.dtypes import DTYPES

Exponents = tuple[tuple[int, int], ...]


class Floats(NamedTuple):
    """A binary floating-point format: exponent bias and bits of the significand's fraction."""

    bias: int
    fraction: int


FLOATS = {
    "BF16": Floats(127, 7),
    "F16": Floats(15, 10),
    "F32": Floats(127, 23),
    "F64": Floats(1023, 52),
}


@dataclass(frozen=True, slots=True)
class Exact:
    """Sums of the finite values: `total` in units of 2**-shift, `squares` of 2**(-2 shift)."""

    count: int
    total: int
    squares: int
    shift: int

    def __add__(self, other: Exact) -> Exact:
        return Exact(
            self.count + other.count,
            self.total + other.total,
            self.squares + other.squares,
            self.shift,
        )

    def mean_std(self) -> tuple[float, float] | None:
        """Mean and standard deviation; Python divides integers with one rounding."""
        count = self.count
        if not count:
            return None
        spread = count * self.squares - self.total * self.total
        return (
            self.total / (count << self.shift),
            math.sqrt(spread / (count * count << 2 * self.shift)),
        )


@dataclass(frozen=True, slots=True)
class Moments:
    """Count and mean of the finite values, and the sum of squared distances from the mean."""

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0

    def __add__(self, other: Moments) -> Moments:
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        apart = other.mean - self.mean
        share = other.count / count
        m2 = self.m2 + other.m2 + apart * apart * self.count * share
        return Moments(count, self.mean + apart * share, m2)

    def mean_std(self) -> tuple[float, float] | None:
        """Mean and standard deviation."""
        return (self.mean, math.sqrt(self.m2 / self.count)) if self.count else None


@dataclass(frozen=True, slots=True)
class Partial:
    """What is known of some of a tensor's values; small and picklable.

    `low` and `high` are of the finite values, None without any. `exponents` are pairs of an
    exponent e and the number of values with 2**e <= |x| < 2**(e + 1), zeros, NaN and
    infinities left out; the lowest of a float format holds its subnormal numbers as well.
    """

    low: float | None
    high: float | None
    zeros: int
    nans: int
    infs: int
    exponents: Exponents
    sums: Exact | Moments | None

    def __add__(self, other: Partial) -> Partial:
        lows = [p.low for p in (self, other) if p.low is not None]
        highs = [p.high for p in (self, other) if p.high is not None]
        counts = dict(self.exponents)
        for exponent, count in other.exponents:
            counts[exponent] = counts.get(exponent, 0) + count
        sums: Any = self.sums  # those of one dtype are of one kind
        return Partial(
            min(lows, default=None),
            max(highs, default=None),
            self.zeros + other.zeros,
            self.nans + other.nans,
            self.infs + other.infs,
            tuple(sorted(counts.items())),
            None if sums is None else sums + other.sums,
        )


class Reducer(Protocol):
    """Counts one dtype's values, window by window."""

    def add(self, values: Any) -> None:
        """Count a one-dimensional, contiguous array of raw numbers."""
        ...

    def take(self) -> Partial:
        """What was counted since the last time; starts again."""
        ...


def reducer(dtype: str) -> Reducer:
    """A reducer for values of a dtype."""
    row = DTYPES[dtype]
    if row.kind == "complex":
        return _Complex()
    if row.bits <= 16:
        return _Patterns(dtype)
    return _Singles() if dtype == "F32" else _Wide(dtype)


class _Patterns:
    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        bits = DTYPES[dtype].bits
        self._unsigned = np.dtype(f"u{bits // 8}")
        self._table = np.zeros((2, 1 << bits), np.uint32)

    def add(self, values: Any) -> None:
        kernels.count_patterns(values.view(self._unsigned), self._table)

    def take(self) -> Partial:
        counts = self._table.sum(axis=0, dtype=np.int64)
        self._table[:] = 0
        patterns = np.flatnonzero(counts)
        counts = counts[patterns]
        if self._dtype in FLOATS:
            return _of_floats(FLOATS[self._dtype], DTYPES[self._dtype].bits, patterns, counts)
        numbers = patterns.astype(self._unsigned)
        if self._dtype != "BOOL":
            numbers = numbers.view(DTYPES[self._dtype].numpy)
        else:
            numbers = (numbers != 0).astype(np.uint8)
        return _of_integers(numbers.astype(np.int64), counts)


def _of_floats(form: Floats, bits: int, patterns: Any, counts: Any) -> Partial:
    """From the distinct bit patterns of a 16-bit float and how often each occurs."""
    negative = patterns >> (bits - 1)
    magnitude = patterns & ((1 << (bits - 1)) - 1)
    field = magnitude >> form.fraction
    infinity = ((1 << (bits - 1 - form.fraction)) - 1) << form.fraction
    nans, infs = int(counts[magnitude > infinity].sum()), int(counts[magnitude == infinity].sum())
    finite = magnitude < infinity
    negative, field, counts = negative[finite], field[finite], counts[finite]
    fraction = magnitude[finite] & ((1 << form.fraction) - 1)
    significand = fraction | np.where(field > 0, 1 << form.fraction, 0)
    signed = np.where(negative, -significand, significand)
    power = np.maximum(field, 1) - 1  # of the unit, which is the smallest subnormal number
    shift = form.bias - 1 + form.fraction
    # Below 2**53: numpy adds up these weights exactly.
    sums = np.bincount(power, weights=counts * signed)
    more = np.bincount(power, weights=counts * significand**2)
    total = sum(int(sums[p]) << p for p in np.flatnonzero(more).tolist())
    squares = sum(int(more[p]) << 2 * p for p in np.flatnonzero(more).tolist())
    values = np.ldexp(signed.astype(np.float64), power - shift)
    return Partial(
        float(values.min()) + 0.0 if values.size else None,
        float(values.max()) + 0.0 if values.size else None,
        int(counts[significand == 0].sum()),
        nans,
        infs,
        _histogram(field[significand > 0] - form.bias, counts[significand > 0]),
        Exact(int(counts.sum()), total, squares, shift),
    )


def _of_integers(numbers: Any, counts: Any) -> Partial:
    """From distinct small integers and how often each occurs."""
    some = numbers != 0
    exponents = np.frexp(numbers[some].astype(np.float64))[1] - 1
    return Partial(
        float(numbers.min()) if numbers.size else None,
        float(numbers.max()) if numbers.size else None,
        int(counts[~some].sum()),
        0,
        0,
        _histogram(exponents, counts[some]),
        Exact(
            int(counts.sum()), int((counts * numbers).sum()), int((counts * numbers**2).sum()), 0
        ),
    )


class _Singles:
    def __init__(self) -> None:
        self._totals = np.zeros((512, 4), np.int64)
        self._scratch = np.zeros((512, 2), np.uint64)
        self._low, self._high, self._nans, self._zeros = math.inf, -math.inf, 0, 0

    def add(self, values: Any) -> None:
        bits = values.view(np.uint32)
        kernels.sum_singles(bits, self._totals, self._scratch)
        low, high, nans, zeros = kernels.single_extremes(bits)
        if low <= high:
            self._low = min(self._low, kernels.key_to_single(low))
            self._high = max(self._high, kernels.key_to_single(high))
        self._nans += nans
        self._zeros += zeros

    def take(self) -> Partial:
        form = FLOATS["F32"]
        hidden = 1 << form.fraction
        rows = self._totals.tolist()
        count = total = squares = 0
        exponents: dict[int, int] = {}
        for row, (n, sum_m, low, high) in enumerate(rows):
            sign, field = -1 if row & 256 else 1, row & 255
            if not n or field == 255:
                continue
            h, p = (hidden, field - 1) if field else (0, 0)
            count += n
            total += sign * (n * h + sum_m) << p
            squares += n * h * h + 2 * h * sum_m + low + (high << 32) << 2 * p
            exponents[field - form.bias] = exponents.get(field - form.bias, 0) + n
        special = rows[255][0] + rows[511][0]
        subnormal = exponents.pop(-form.bias, 0) - self._zeros
        if subnormal:
            exponents[-form.bias] = subnormal
        found = Partial(
            self._low if count else None,
            self._high if count else None,
            self._zeros,
            self._nans,
            special - self._nans,
            tuple(sorted(exponents.items())),
            Exact(count, total, squares, form.bias - 1 + form.fraction),
        )
        self._totals[:] = 0
        self._low, self._high, self._nans, self._zeros = math.inf, -math.inf, 0, 0
        return found


class _Wide:
    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self._found = _NOTHING

    def add(self, values: Any) -> None:
        numbers = values.view(DTYPES[self._dtype].numpy)
        self._found += _of_doubles(numbers) if self._dtype == "F64" else _of_wide(numbers)

    def take(self) -> Partial:
        found, self._found = self._found, _NOTHING
        return found


_NOTHING = Partial(None, None, 0, 0, 0, (), Moments())


def _of_doubles(numbers: Any) -> Partial:
    form = FLOATS["F64"]
    finite = numbers[np.isfinite(numbers)]
    some = finite[finite != 0]
    fields = some.view(np.uint64) >> np.uint64(form.fraction) & np.uint64(0x7FF)
    counts = np.bincount(fields.astype(np.int64))
    nans = int(np.isnan(numbers).sum())
    return Partial(
        float(finite.min()) + 0.0 if finite.size else None,
        float(finite.max()) + 0.0 if finite.size else None,
        len(finite) - len(some),
        nans,
        len(numbers) - len(finite) - nans,
        _histogram(np.arange(len(counts)) - form.bias, counts),
        Moments(*kernels.wide_moments(numbers)),
    )


def _of_wide(numbers: Any) -> Partial:
    some = numbers[numbers != 0]
    if some.dtype.kind == "i":
        some = some.astype(np.int64)
    # The magnitude of the least integer wraps around to itself, which is right without a sign.
    magnitudes = np.abs(some).astype(np.uint64)
    exponents = np.frexp(magnitudes.astype(np.float64))[1] - 1
    # Conversion may have rounded up to the next power of two.
    exponents -= magnitudes >> np.minimum(exponents, 63).astype(np.uint64) == 0
    exponents = np.minimum(exponents, 63)
    counts = np.bincount(exponents)
    return Partial(
        float(numbers.min()) if numbers.size else None,
        float(numbers.max()) if numbers.size else None,
        len(numbers) - len(some),
        0,
        0,
        _histogram(np.arange(len(counts)), counts),
        Moments(*kernels.wide_moments(numbers.astype(np.float64))),
    )


class _Complex:
    def __init__(self) -> None:
        self._counts = [0, 0, 0]

    def add(self, values: Any) -> None:
        numbers = values
        nans = np.isnan(numbers)
        found = (numbers == 0, nans, np.isinf(numbers) & ~nans)
        self._counts = [
            c + int(np.count_nonzero(f)) for c, f in zip(self._counts, found, strict=True)
        ]

    def take(self) -> Partial:
        zeros, nans, infs = self._counts
        self._counts = [0, 0, 0]
        return Partial(None, None, zeros, nans, infs, (), None)


def _histogram(exponents: Any, counts: Any) -> Exponents:
    """Sorted `(exponent, count)` from pairs that may repeat an exponent; empty bins left out."""
    if not len(exponents):
        return ()
    lowest = int(exponents.min())
    sums = np.bincount(exponents - lowest, weights=counts)
    return tuple((lowest + int(i), int(sums[i])) for i in np.flatnonzero(sums))
