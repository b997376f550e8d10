"""Counting kernels behind statistics: one pass over a window of values, exact sums.

Nothing is added in floating point. A 16-bit number is one of 65,536, so a window of BF16 or F16
is counted by bit pattern, and minimum, maximum, sums, zeros and exponents follow from the counts.
For float32 the sums of significands are kept by sign and exponent:

    value = (-1)**sign * (hidden + m) * 2**(exponent - 150),  hidden = 2**23 unless exponent is 0
    sum of (hidden + m)**2 = count * hidden**2 + 2 * hidden * sum(m) + sum(m**2)

so a count, sum(m) and sum(m**2) a sign and exponent are all that a window has to leave behind.
Integers add up to the same in any order: the results do not depend on windows, tasks or workers.
"""

from __future__ import annotations

import sys

import numpy as np

from anamnesis.kernels._native import kernel
from anamnesis.kernels.types import Array, Doubles, Indices, Longs, Words

i32, u64 = np.int32, np.uint64
SINGLE_CHUNK = 1 << 15  # so many m**2 < 2**46 fit in 64 bits; so many m < 2**23 in 40
MOST, LEAST = 0x7FFFFFFF, -0x80000000
_count = kernel("stats:count_each")
_count_words = kernel("stats:count_words")
_single_extremes = kernel("stats:single_extremes")
_sum_singles = kernel("stats:sum_singles")
_wide_moments = kernel("stats:wide_moments")


def count_patterns(patterns: Array, table: Words) -> None:
    """Count bit patterns into `table`, uint32 `[2, 2**bits]`; its rows add up to the counts.

    `patterns` is one-dimensional and contiguous, uint8 or uint16. Neighbours go to different rows,
    as an increment has to wait for the one before it of the same counter.
    """
    if patterns.dtype == np.uint16 and sys.byteorder == "little":
        head = min(len(patterns), -patterns.ctypes.data % 8 // 2)
        words = (len(patterns) - head) // 4
        if words:
            _count_words(patterns[head : head + 4 * words].view(u64), table)
        _count(patterns[:head], table)
        patterns = patterns[head + 4 * words :]
    _count(patterns, table)


def sum_singles(bits: Words, totals: Indices, scratch: Longs) -> None:
    """Add float32 numbers, as uint32 bits, to the sums of their signs and exponents.

    `totals` is int64 `[512, 4]`: row `bits >> 23` has count, sum(m), and sum(m**2) in two
    parts, the multiples of 2**32 last; `scratch` is uint64 `[512, 2]` of zeros, and stays so. The
    row of an infinity or NaN counts and adds up like others.
    """
    _sum_singles(bits, totals, scratch)


def single_extremes(bits: Array) -> tuple[int, int, int, int]:
    """`(low, high, nans, zeros)` of float32 numbers as uint32 bits.

    `low` and `high` are ordered like the finite numbers among them; `key_to_single` gives the
    number. Without any, `low` is above `high`.
    """
    found = np.empty(4, np.int64)
    _single_extremes(bits.view(i32), found)
    low, high, nans, zeros = found.tolist()
    return low, high, nans, zeros


def key_to_single(key: int) -> float:
    """The float32 that `single_extremes` means; zeros of either sign are 0."""
    bits = key if key >= 0 else (~key & MOST) | 0x80000000
    return float(np.uint32(bits).view(np.float32)) + 0.0


def wide_moments(values: Doubles) -> tuple[int, float, float]:
    """`(count, mean, m2)` of the finite among float64 `values`, in a fixed order of additions.

    `m2` is the sum of squared distances from the mean. Eight partial sums each; twice over a window
    that stays in cache.
    """
    found, lanes = np.zeros(3), np.zeros(8)
    _wide_moments(values, lanes, found)
    count, mean, m2 = found.tolist()
    return int(count), mean, m2
