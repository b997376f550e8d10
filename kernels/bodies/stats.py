"""Bodies of `kernels/stats.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import jit
from anamnesis.kernels.bodies.bits import u32
from anamnesis.kernels.stats import LEAST, MOST, SINGLE_CHUNK
from anamnesis.kernels.types import Array

i32, u64 = np.int32, np.uint64
_COUNT_BIT = 40
_INFINITY = 0x7F800000


@jit
def count_each(patterns: Array, table: Array) -> None:
    """Count patterns, neighbours in different rows."""
    for i in range(patterns.shape[0]):
        # Two counters that take turns: a pattern that comes twice does not wait for its own store.
        table[i & 1, patterns[i]] += u32(1)


@jit
def count_words(words: Array, table: Array) -> None:
    """Four 16-bit patterns a word."""
    low = u64(0xFFFF)
    for i in range(words.shape[0]):
        word = words[i]
        # A little-endian word of 64 bits: bits 16 k to 16 k + 15 are pattern k.
        table[0, word & low] += u32(1)
        table[1, word >> u64(16) & low] += u32(1)
        table[0, word >> u64(32) & low] += u32(1)
        table[1, word >> u64(48)] += u32(1)


@jit
def sum_singles(bits: Array, totals: Array, scratch: Array) -> None:
    """Add bits to `totals`, a chunk at a time, as long as sums fit `scratch`."""
    low = (u64(1) << u64(_COUNT_BIT)) - u64(1)
    for start in range(0, bits.shape[0], SINGLE_CHUNK):
        _sum_chunk(bits[start : start + SINGLE_CHUNK], scratch)
        for row in range(scratch.shape[0]):
            totals[row, 0] += np.int64(scratch[row, 0] >> u64(_COUNT_BIT))
            totals[row, 1] += np.int64(scratch[row, 0] & low)
            # Sums of squares of all mantissas of a chunk fit 64 bits; as halves they add up in
            # int64.
            totals[row, 2] += np.int64(scratch[row, 1] & u64(0xFFFFFFFF))
            totals[row, 3] += np.int64(scratch[row, 1] >> u64(32))
            scratch[row, 0] = u64(0)
            scratch[row, 1] = u64(0)


@jit
def _sum_chunk(bits: Array, scratch: Array) -> None:
    one = u64(1) << u64(_COUNT_BIT)
    for i in range(bits.shape[0]):
        number = bits[i]
        # Bits 23-31 of a float32: sign and exponent; bits 0-22: the mantissa.
        row = number >> u32(23)
        m = u64(number & u32(0x7FFFFF))
        # Word 0: bits 0-39 the sum of mantissas, bits 40-63 how many.
        scratch[row, 0] += one | m  # the count above the sum
        scratch[row, 1] += m * m


@jit
def single_extremes(bits: Array, found: Array) -> None:
    """Least and greatest key of finite numbers, and how many NaNs and zeros."""
    low, high, nans, zeros = i32(MOST), i32(LEAST), i32(0), i32(0)
    for i in range(bits.shape[0]):
        number = i32(bits[i])
        magnitude = i32(number & i32(MOST))
        # In the order of the numbers: negative ones have all other bits turned.
        key = i32(magnitude ^ i32(number >> i32(31)))
        finite = magnitude < i32(_INFINITY)
        low = min(low, key if finite else i32(MOST))
        high = max(high, key if finite else i32(LEAST))
        nans = i32(nans + i32(magnitude > i32(_INFINITY)))
        zeros = i32(zeros + i32(magnitude == i32(0)))
    found[0], found[1], found[2], found[3] = low, high, nans, zeros


@jit
def wide_moments(values: Array, lanes: Array, found: Array) -> None:
    """Count, mean and sum of squared distances of the finite ones, in eight lanes."""
    count = 0
    for i in range(values.shape[0]):
        # Neither an infinity nor a NaN: these less themselves are NaN.
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
def _tree(lanes: Array) -> Any:
    """The sum of eight partial sums, which are cleared."""
    # As a vector is halved, so that the order is the same on every machine.
    total = ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + (
        (lanes[1] + lanes[5]) + (lanes[3] + lanes[7])
    )
    lanes[:] = 0.0
    return total
