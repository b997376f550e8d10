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
from typing import Any

import numpy as np

from anamnesis.kernels._jit import jit
from anamnesis.kernels.bits import u32

i32, u64 = np.int32, np.uint64
SINGLE_CHUNK = 1 << 15  # so many m**2 < 2**46 fit in 64 bits; so many m < 2**23 in 40
_COUNT_BIT = 40
_INFINITY = 0x7F800000
_MOST, _LEAST = 0x7FFFFFFF, -0x80000000


def count_patterns(patterns: Any, table: Any) -> None:
    """Count bit patterns into `table`, uint32 `[2, 2**bits]`; its rows add up to the counts.

    `patterns` is one-dimensional and contiguous, uint8 or uint16. Neighbours go to different rows,
    as an increment has to wait for the one before it of the same counter.
    """
    if patterns.dtype == np.uint16 and sys.byteorder == "little":
        head = min(len(patterns), -patterns.ctypes.data % 8 // 2)
        words = (len(patterns) - head) // 4
        if words:
            _count_words(_frozen(patterns[head : head + 4 * words].view(u64)), table)
        _count(_frozen(patterns[:head]), table)
        patterns = patterns[head + 4 * words :]
    _count(_frozen(patterns), table)


@jit
def _count(patterns: Any, table: Any) -> None:
    for i in range(patterns.shape[0]):
        table[i & 1, patterns[i]] += u32(1)


@jit
def _count_words(words: Any, table: Any) -> None:
    """Four 16-bit patterns a word."""
    low = u64(0xFFFF)
    for i in range(words.shape[0]):
        word = words[i]
        table[0, word & low] += u32(1)
        table[1, word >> u64(16) & low] += u32(1)
        table[0, word >> u64(32) & low] += u32(1)
        table[1, word >> u64(48)] += u32(1)


def sum_singles(bits: Any, totals: Any, scratch: Any) -> None:
    """Add float32 numbers, as uint32 bits, to the sums of their signs and exponents.

    `totals` is int64 `[512, 4]`: row `bits >> 23` has count, sum(m), and sum(m**2) in two
    parts, the multiples of 2**32 last; `scratch` is uint64 `[512, 2]` of zeros, and stays so. The
    row of an infinity or NaN counts and adds up like others.
    """
    _sum_singles(_frozen(bits), totals, scratch)


@jit
def _sum_singles(bits: Any, totals: Any, scratch: Any) -> None:
    low = (u64(1) << u64(_COUNT_BIT)) - u64(1)
    for start in range(0, bits.shape[0], SINGLE_CHUNK):
        _sum_chunk(bits[start : start + SINGLE_CHUNK], scratch)
        for row in range(scratch.shape[0]):
            totals[row, 0] += np.int64(scratch[row, 0] >> u64(_COUNT_BIT))
            totals[row, 1] += np.int64(scratch[row, 0] & low)
            totals[row, 2] += np.int64(scratch[row, 1] & u64(0xFFFFFFFF))
            totals[row, 3] += np.int64(scratch[row, 1] >> u64(32))
            scratch[row, 0] = u64(0)
            scratch[row, 1] = u64(0)


@jit
def _sum_chunk(bits: Any, scratch: Any) -> None:
    one = u64(1) << u64(_COUNT_BIT)
    for i in range(bits.shape[0]):
        number = bits[i]
        row = number >> u32(23)
        m = u64(number & u32(0x7FFFFF))
        scratch[row, 0] += one | m  # the count above the sum
        scratch[row, 1] += m * m


def single_extremes(bits: Any) -> tuple[int, int, int, int]:
    """`(low, high, nans, zeros)` of float32 numbers as uint32 bits.

    `low` and `high` are ordered like the finite numbers among them; `key_to_single` gives the
    number. Without any, `low` is above `high`.
    """
    found = np.empty(4, np.int64)
    _single_extremes(_frozen(bits.view(i32)), found)
    low, high, nans, zeros = found.tolist()
    return low, high, nans, zeros


@jit
def _single_extremes(bits: Any, found: Any) -> None:
    low, high, nans, zeros = i32(_MOST), i32(_LEAST), i32(0), i32(0)
    for i in range(bits.shape[0]):
        number = i32(bits[i])
        magnitude = i32(number & i32(_MOST))
        key = i32(magnitude ^ i32(number >> i32(31)))
        finite = magnitude < i32(_INFINITY)
        low = min(low, key if finite else i32(_MOST))
        high = max(high, key if finite else i32(_LEAST))
        nans = i32(nans + i32(magnitude > i32(_INFINITY)))
        zeros = i32(zeros + i32(magnitude == i32(0)))
    found[0], found[1], found[2], found[3] = low, high, nans, zeros


def key_to_single(key: int) -> float:
    """The float32 that `single_extremes` means; zeros of either sign are 0."""
    bits = key if key >= 0 else (~key & _MOST) | 0x80000000
    return float(np.uint32(bits).view(np.float32)) + 0.0


def wide_moments(values: Any) -> tuple[int, float, float]:
    """`(count, mean, m2)` of the finite among float64 `values`, in a fixed order of additions.

    `m2` is the sum of squared distances from the mean. Eight partial sums each; twice over a window
    that stays in cache.
    """
    found, lanes = np.zeros(3), np.zeros(8)
    _wide_moments(_frozen(values), lanes, found)
    count, mean, m2 = found.tolist()
    return int(count), mean, m2


@jit
def _wide_moments(values: Any, lanes: Any, found: Any) -> None:
    count = 0
    for i in range(values.shape[0]):
        finite = values[i] - values[i] == 0.0
        lanes[i & 7] += values[i] if finite else 0.0
        count += finite
    if count == 0:
        return
    mean = _tree(lanes) / count
    for i in range(values.shape[0]):
        finite = values[i] - values[i] == 0.0
        distance = values[i] - mean if finite else 0.0
        lanes[i & 7] += distance * distance
    found[0], found[1], found[2] = count, mean, _tree(lanes)


@jit
def _tree(lanes: Any) -> Any:
    """The sum of eight partial sums, which are cleared."""
    total = ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + (
        (lanes[1] + lanes[5]) + (lanes[3] + lanes[7])
    )
    lanes[:] = 0.0
    return total


def _frozen(array: Any) -> Any:
    """A read-only view: a kernel is compiled once for a dtype."""
    view = array.view()
    view.setflags(write=False)
    return view
