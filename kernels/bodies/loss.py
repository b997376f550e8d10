"""Bodies of `kernels/loss.py`, which has the order of the sums."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import bf16_bits, inline, jit, local, stack, variants
from anamnesis.kernels.bodies._lane_memory import (
    is_bf16,
    lanes,
    number,
    pairs,
    pairs_back,
    put_lanes,
    some,
    wide_bytes,
)
from anamnesis.kernels.bodies._lanes import (
    as_bits,
    as_reals,
    at_most,
    choose,
    count_of,
    is_any,
    most_of,
    not_below,
    size_of,
    splat,
    word,
)
from anamnesis.kernels.bodies._lookup import entries_at
from anamnesis.kernels.bodies._vector import load16, load_half, signed, to_f32
from anamnesis.kernels.bodies.encode_fp8 import e4m3_placed
from anamnesis.kernels.diff import DOT, MAX, NOISE, OTHER, SIGNAL, SUM
from anamnesis.kernels.loss import BLOCK, CLIPPED, E4M3_END, EQUAL, FINITE, LEAST
from anamnesis.kernels.types import Array, Bytes, Doubles, Floats, Indices, Ints

_REAL_ZERO, _INFINITY, _NAN = np.float32(0), np.float32(np.inf), np.float32(np.nan)
_LEAST = np.float32(LEAST)
_sums, _room, _numbers = stack(6 * 64), stack(64), stack(4 * BLOCK)


@inline
def _ordered(first: np.float32, last: np.float32) -> Any:
    """Two ends, the lower one first; two NaNs if one is NaN, which nothing is past."""
    if first <= last:
        return first, last
    return (last, first) if last < first else (_NAN, _NAN)


def _plain() -> tuple[Callable[..., Any], ...]:
    """Numbers as float32, and ends that are given for every group."""

    def group(encoded: Floats, low: Floats, high: Floats, g: int) -> Any:
        return np.float32(1), low[g], high[g]

    def read(encoded: Floats, high: Floats, i: int, g: int, scale: Floats) -> Any:
        return lanes(encoded, i)

    def rest(encoded: Floats, i: int, stop: int, room: Floats) -> Any:
        return some(encoded, i, stop, room)

    return group, read, rest


def _e4m3() -> tuple[Callable[..., Any], ...]:
    """Codes of E4M3, and scales in place of `low`, one for every group."""

    def group(codes: Bytes, scales: Floats, unused: Floats, g: int) -> Any:
        end = abs(scales[g] * np.float32(E4M3_END))
        return scales[g], -end, end

    def read(codes: Bytes, unused: Floats, i: int, g: int, scale: Floats) -> Any:
        found = wide_bytes(codes, i) << 24 >> 4
        number = as_bits(e4m3_placed(found & 0x7F << 20)) | found & -0x80000000
        return as_reals(number) * scale

    return group, read, _no_rest


def _pairs(codes_of: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """Two codes a byte, scales in place of `low`, and in place of `high` a table.

    It has the sixteen numbers of codes, and the ends below and above, under a scale of 1.
    """

    def group(codes: Bytes, scales: Floats, table: Floats, g: int) -> Any:
        first, last = scales[g] * table[16], scales[g] * table[17]
        return scales[g], *_ordered(first, last)

    def read(codes: Bytes, table: Floats, i: int, g: int, scale: Floats) -> Any:
        return entries_at(lanes(table, 0), codes_of(codes, i // 2)) * scale

    return group, read, _no_rest


def _int8() -> tuple[Callable[..., Any], ...]:
    """Codes of int8, scales in place of `low`, and in place of `high` three factors.

    The ends below and above are those of a scale of 1, and numbers have the third.
    """

    def group(codes: Bytes, scales: Floats, factors: Floats, g: int) -> Any:
        first, last = scales[g] * factors[0], scales[g] * factors[1]
        return scales[g], *_ordered(first, last)

    def read(codes: Bytes, factors: Floats, i: int, g: int, scale: Floats) -> Any:
        return to_f32(signed(load16(codes, i))) * scale * factors[2]

    return group, read, _no_rest


def _q4_0() -> tuple[Callable[..., Any], ...]:
    """Blocks of 18 bytes: `d` binary16, then 32 codes, j and 16 + j as halves of byte j."""

    def group(blocks: Bytes, unused: Floats, nor: Floats, g: int) -> Any:
        d = load_half(blocks, 18 * g)
        first, last = d * np.float32(-8.5), d * np.float32(7.5)
        return d, *_ordered(first, last)

    def read(blocks: Bytes, unused: Floats, i: int, g: int, d: Floats) -> Any:
        pairs = load16(blocks, 18 * g + 2)
        return to_f32(signed((pairs >> 4 if i % 32 else pairs & 15) - 8)) * d

    return group, read, _no_rest


def _q4_1() -> tuple[Callable[..., Any], ...]:
    """Blocks of 20 bytes: `d` and `m`, binary16, then codes as those of Q4_0."""

    def group(blocks: Bytes, unused: Floats, nor: Floats, g: int) -> Any:
        d, m = load_half(blocks, 20 * g), load_half(blocks, 20 * g + 2)
        first, last = d * np.float32(-0.5) + m, d * np.float32(15.5) + m
        return d, *_ordered(first, last)

    def read(blocks: Bytes, unused: Floats, i: int, g: int, d: Floats) -> Any:
        pairs = load16(blocks, 20 * g + 4)
        codes = pairs >> 4 if i % 32 else pairs & 15
        return to_f32(codes) * d + load_half(blocks, 20 * g + 2)

    return group, read, _no_rest


def _q8_0() -> tuple[Callable[..., Any], ...]:
    """Blocks of 34 bytes: `d` binary16, then 32 int8 codes."""

    def group(blocks: Bytes, unused: Floats, nor: Floats, g: int) -> Any:
        d = load_half(blocks, 34 * g)
        return d, d * np.float32(-127.5), d * np.float32(127.5)  # which is not negative

    def read(blocks: Bytes, unused: Floats, i: int, g: int, d: Floats) -> Any:
        return to_f32(signed(load16(blocks, i + 2 * g + 2))) * d

    return group, read, _no_rest


def _no_rest(codes: Bytes, i: int, stop: int, room: Floats) -> Any:
    """Codes are whole steps of sixteen."""
    return lanes(room, 0)


_FORMS: dict[str, Callable[[], tuple[Callable[..., Any], ...]]] = {
    "plain": _plain,
    "e4m3": _e4m3,
    "int8": _int8,
    "pairs": partial(_pairs, pairs),
    "pairs-back": partial(_pairs, pairs_back),
    "q4-0": _q4_0,
    "q4-1": _q4_1,
    "q8-0": _q8_0,
}


def _decoded(group: Any, read: Any, rest: Any) -> Any:
    """A block's numbers as float32, in `room`."""

    def decoded(
        encoded: Array, span: tuple[int, int], size: int, low: Floats, high: Floats, room: Floats
    ) -> None:
        for i in range(span[0], span[1], 16):
            if i + 16 <= span[1]:
                g = i // size
                scale, _, _ = group(encoded, low, high, g)
                put_lanes(room, i - span[0], read(encoded, high, i, g, splat(scale)))
            else:
                at = room[i - span[0] :]
                put_lanes(at, 0, rest(encoded, i, span[1], at))

    return inline(decoded)


@variants
def compared(form: str) -> Any:
    """`(values, encoded, size, low, high, state, counts)`: numbers added to the sums and counts.

    `form` says what `encoded`, `low` and `high` are. `size` is a multiple of 16, or 1 of plain
    numbers, the last of which may be fewer than sixteen: zeros take the others' places.
    """
    group, read, rest = map(inline, _FORMS[form]())
    decoded = _decoded(group, read, rest)
    plain = form == "plain"

    def run(
        values: Array,
        encoded: Array,
        size: int,
        low: Floats,
        high: Floats,
        state: Doubles,
        counts: Indices,
    ) -> None:
        sums, room = local(_sums(), (6, 16), np.float32), local(_room(), 16, np.float32)
        elems, g, following = values.shape[0], -1, 0 if size > 1 else -1
        least, last, scale = splat(_REAL_ZERO), splat(_REAL_ZERO), splat(_REAL_ZERO)
        for begin in range(0, elems, BLOCK):
            stop = min(begin + BLOCK, elems)
            total = most = noise = signal = other = dot = splat(_REAL_ZERO)
            equal = within = 0
            for i in range(begin, stop, 16):
                if i == following:
                    g, following = g + 1, following + size
                    divider, start, end = group(encoded, low, high, g)
                    scale, least, last = splat(divider), splat(start), splat(end)
                if i + 16 <= stop or not plain:
                    x, y = lanes(values, i), read(encoded, high, i, g, scale)
                    if plain and size == 1:
                        least, last = lanes(low, i), lanes(high, i)
                    within += count_of(not_below(x, least) & not_below(last, x))
                else:
                    x, y = some(values, i, stop, room), rest(encoded, i, stop, room)
                    for j in range(i, stop):
                        value, at = number(values, j), j if size == 1 else g
                        counts[CLIPPED] += np.int64(value < low[at]) + np.int64(value > high[at])
                    within += stop - i
                distance = size_of(x - y)
                most = most_of(distance, most)
                total, noise = total + distance, noise + distance * distance
                signal, other, dot = signal + x * x, other + y * y, dot + x * y
                # What is BF16 rounds to itself.
                equal += _alike(as_bits(x) if is_bf16(values) else _rounded(x), as_bits(y))
            counts[CLIPPED] += stop - begin - within
            _put_sums(sums, most, (total, noise), (signal, other, dot))
            # Zeros that stand for no number are equal, too.
            alike = equal - (begin - stop) % 16
            if _holds(most, noise, signal, other):
                _add_block(sums, stop - begin, alike, state, counts)
            else:
                numbers = local(_numbers(), BLOCK, np.float32)
                decoded(encoded, (begin, stop), size, low, high, numbers)
                _add_numbers(values, numbers, (begin, stop), state, counts)

    return run


@inline
def _put_sums(
    sums: Array, most: Floats, of_gaps: tuple[Floats, Floats], of_both: tuple[Floats, ...]
) -> None:
    """Lanes into their rows; of gaps, sizes and squares, and of both squares and products."""
    put_lanes(sums, 16 * MAX, most)
    put_lanes(sums, 16 * SUM, of_gaps[0])
    put_lanes(sums, 16 * NOISE, of_gaps[1])
    put_lanes(sums, 16 * SIGNAL, of_both[0])
    put_lanes(sums, 16 * OTHER, of_both[1])
    put_lanes(sums, 16 * DOT, of_both[2])


@inline
def _alike(rounded: Ints, bits: Ints) -> Any:
    """How many of these float32 lanes round to BF16 numbers, all given as their bits."""
    # They are half a last place away at most, and not so much from an odd one.
    gap = bits - rounded
    distance = choose(gap < splat(0), splat(0) - gap, gap)
    return count_of(at_most(distance | rounded >> 16 & 1, splat(0x8000)))


@inline
def _rounded(numbers: Floats) -> Any:
    """BF16 bits of lanes, and what is below them in the bits that are cut off: ties to even."""
    bits = as_bits(numbers)
    return bits + 0x7FFF + (bits >> 16 & 1) & -0x10000


@jit
def _add_block(sums: Floats, count: int, alike: int, state: Doubles, counts: Indices) -> None:
    """Add a block's sums."""
    for lane in range(16):
        state[MAX, lane] = max(state[MAX, lane], np.float64(sums[MAX, lane]))
        for row in (SUM, NOISE, SIGNAL, OTHER, DOT):
            state[row, lane] += np.float64(sums[row, lane])
    counts[FINITE] += count
    counts[EQUAL] += alike


@jit
def _add_numbers(
    values: Array, numbers: Floats, span: tuple[int, int], state: Doubles, counts: Indices
) -> None:
    """Add the numbers of a block one by one, where float32 does not hold its sums."""
    for i in range(span[0], span[1]):
        first, second = number(values, i), numbers[i - span[0]]
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
