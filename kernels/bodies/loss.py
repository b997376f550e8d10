"""Bodies of `kernels/loss.py`, which has the order of the sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import bf16_bits, inline, jit, local, stack
from anamnesis.kernels.bodies._lane_memory import lanes, number, put_lanes, some
from anamnesis.kernels.bodies._lanes import (
    as_bits,
    choose,
    is_any,
    most_of,
    size_of,
    splat,
    sum_of,
    word,
)
from anamnesis.kernels.diff import DOT, MAX, NOISE, OTHER, SIGNAL, SUM
from anamnesis.kernels.loss import BLOCK, CLIPPED, EQUAL, FINITE, LEAST
from anamnesis.kernels.types import Array, Doubles, Floats, Indices

_REAL_ZERO, _INFINITY, _LEAST = np.float32(0), np.float32(np.inf), np.float32(LEAST)
_sums, _room = stack(6 * 64), stack(64)


@jit
def compared(
    values: Array, encoded: Floats, size: int, low: Floats, high: Floats,
    state: Doubles, counts: Indices,
) -> None:  # fmt: skip
    """Add numbers to the sums and counts; `size` is a multiple of 16, or 1.

    The last step may have fewer than sixteen numbers; zeros take the others' places.
    """
    sums, room = local(_sums(), (6, 16), np.float32), local(_room(), 16, np.float32)
    elems, past, g, following = values.shape[0], splat(0), -1, 0
    least, last = splat(_REAL_ZERO), splat(_REAL_ZERO)
    for begin in range(0, elems, BLOCK):
        stop = min(begin + BLOCK, elems)
        total, most, noise = splat(_REAL_ZERO), splat(_REAL_ZERO), splat(_REAL_ZERO)
        signal, other, dot = splat(_REAL_ZERO), splat(_REAL_ZERO), splat(_REAL_ZERO)
        equal = splat(0)
        for i in range(begin, stop, 16):
            if size > 1 and i == following:
                g, following = g + 1, following + size
                least, last = splat(low[g]), splat(high[g])
            if i + 16 <= stop:
                x, y = lanes(values, i), lanes(encoded, i)
                if size == 1:
                    least, last = lanes(low, i), lanes(high, i)
                past = past + _one_where((x < least) | (x > last))
            else:
                x, y = some(values, i, stop, room), some(encoded, i, stop, room)
                for j in range(i, stop):
                    value, at = number(values, j), j if size == 1 else g
                    counts[CLIPPED] += np.int64(value < low[at]) + np.int64(value > high[at])
            distance = size_of(x - y)
            most = most_of(distance, most)
            total, noise = total + distance, noise + distance * distance
            signal, other, dot = signal + x * x, other + y * y, dot + x * y
            # What is BF16 rounds to itself.
            rounded = as_bits(x) if values.itemsize == 2 else _rounded(x)
            equal = equal + _one_where(_rounded(y) == rounded)
        put_lanes(sums, 16 * SUM, total)
        put_lanes(sums, 16 * MAX, most)
        put_lanes(sums, 16 * NOISE, noise)
        put_lanes(sums, 16 * SIGNAL, signal)
        put_lanes(sums, 16 * OTHER, other)
        put_lanes(sums, 16 * DOT, dot)
        held = _holds(most, noise, signal, other)
        # Zeros that stand for no number are equal, too.
        alike = sum_of(equal) - (begin - stop) % 16
        _add_block(values, encoded, (begin, stop), held, sums, alike, state, counts)
    counts[CLIPPED] += sum_of(past)


@inline
def _one_where(mask: Any) -> Any:
    return choose(mask, splat(1), splat(0))


@inline
def _rounded(numbers: Floats) -> Any:
    """BF16 bits of lanes, and what is below them in the bits that are cut off: ties to even."""
    bits = as_bits(numbers)
    return bits + 0x7FFF + (bits >> 16 & 1) & -0x10000


@jit
def _add_block(
    values: Array, encoded: Floats, span: tuple[int, int], held: bool, sums: Floats, alike: int,
    state: Doubles, counts: Indices,
) -> None:  # fmt: skip
    """Add a block's sums, or where float32 does not hold them, its numbers one by one."""
    if held:
        for lane in range(16):
            state[MAX, lane] = max(state[MAX, lane], np.float64(sums[MAX, lane]))
            for row in (SUM, NOISE, SIGNAL, OTHER, DOT):
                state[row, lane] += np.float64(sums[row, lane])
        counts[FINITE] += span[1] - span[0]
        counts[EQUAL] += alike
        return
    for i in range(span[0], span[1]):
        first, second = number(values, i), encoded[i]
        if np.isfinite(first) and np.isfinite(second):
            lane, x, y = (i - span[0]) % 16, np.float64(first), np.float64(second)
            distance = abs(x - y)
            state[MAX, lane] = max(state[MAX, lane], distance)
            state[SUM, lane] += distance
            state[NOISE, lane] += distance * distance
            state[SIGNAL, lane] += x * x
            state[OTHER, lane] += y * y
            state[DOT, lane] += x * y
            counts[FINITE] += 1
            counts[EQUAL] += np.int64(bf16_bits(first) == bf16_bits(second))


@inline
def _holds(most: Floats, noise: Floats, signal: Floats, other: Floats) -> Any:
    """Whether squares neither vanished nor became infinite, and all numbers are finite."""
    zero, least = splat(_REAL_ZERO), splat(_LEAST)
    same = not is_any((most != zero) | (noise != zero))
    held = (is_any(noise >= least) or same) and is_any(signal >= least) and is_any(other >= least)
    return held and word(noise + signal + other < splat(_INFINITY)) == 0xFFFF
