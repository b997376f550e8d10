"""Least and greatest numbers of groups, and their greatest magnitudes.

Floats are compared by their bits, as integers in the same order, since loops over those
vectorise: a magnitude is its bits without the sign; a signed number's bits below the sign are
flipped where it is negative. A NaN is above every number there (or below, if its sign is set), so
that a group with one gives one, as torch's `amin` and `amax` do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import as_f32, as_u32, forced, inline, jit, local, stack
from anamnesis.kernels.bodies._lane_memory import (
    READ_AHEAD,
    bring,
    is_bf16,
    lanes,
    number,
    put_lanes,
    words,
)
from anamnesis.kernels.bodies._lanes import (
    as_bits,
    as_reals,
    choose,
    greatest_of,
    most_of,
    most_of_pairs,
    splat,
)
from anamnesis.kernels.bodies.bits import u32
from anamnesis.kernels.types import Array, Floats, Ints

_i32 = np.int32
_tile, _tiles = stack(1024), stack(2048)
_room, _low = stack(64), stack(64)
_LOWEST, _LOWEST_PAIR = -0x80000000, -0x7FFF8000  # of int32, and of both int16 in one


@jit
def magnitudes(values: Array, group: int, greatest: Array) -> None:
    """The greatest magnitude of each group, as float32 bits; a NaN is above all."""
    if group % 16 == 0:
        _of_whole_runs(values, group, greatest)
        return
    for g in range(greatest.shape[0]):
        most = _i32(0)
        for i in range(g * group, (g + 1) * group):
            most = max(most, _i32(as_u32(number(values, i)) & u32(0x7FFFFFFF)))
        greatest[g] = most


@inline
def _of_whole_runs(values: Array, group: int, greatest: Array) -> None:
    """The same for groups of whole runs of 16: sixteen groups are folded together."""
    tile, room = local(_tile(), (16, 16), _i32), local(_room(), 16, _i32)
    for first in range(0, greatest.shape[0], 16):
        count = min(16, greatest.shape[0] - first)
        found = greatest_lanes(values, first, count, group, tile)
        # The last few groups fill fewer lanes: others are not stored.
        if count == 16:
            put_lanes(greatest, first, found)
        else:
            put_lanes(room, 0, found)
            for k in range(count):
                greatest[first + k] = room[k]


@forced
def greatest_lanes(values: Array, first: int, count: int, group: int, tile: Ints) -> Any:
    """The greatest magnitudes, as bits, of up to 16 groups of whole runs of 16, a lane each.

    A NaN is above all; `tile` is room for `[16, 16]` int32.
    """
    for k in range(count):
        span = (first + k) * group, (first + k + 1) * group
        put_lanes(tile, 16 * k, unpaired(values, raised(values, span, READ_AHEAD, splat(0))))
    return greatest_of(tile)


@forced
def raised(values: Array, span: tuple[int, int], ahead: int, most: Ints) -> Any:
    """`most`, and where they are greater the magnitudes, as bits, of whole runs of 16.

    What is `ahead` of a number is brought near.
    """
    if not is_bf16(values):
        for i in range(span[0], span[1], 16):
            bring(values, i + ahead)
            most = most_of(as_bits(lanes(values, i)) & 0x7FFFFFFF, most)
        return most
    rest = span[1] - (span[1] - span[0]) % 32
    for i in range(span[0], rest, 32):
        bring(values, i + ahead)
        most = most_of_pairs(words(values, i) & 0x7FFF7FFF, most)
    if rest < span[1]:
        bring(values, rest + ahead)
        most = most_of_pairs(as_bits(lanes(values, rest)) & 0x7FFFFFFF, most)
    return most


@inline
def unpaired(values: Array, most: Ints) -> Any:
    """What `raised` has, one number a lane: of BF16 it has two, compared as they are stored."""
    return most_of(most << 16, most & -0x10000) if is_bf16(values) else most


@jit
def ends(values: Array, group: int, least: Floats, most: Floats) -> None:
    """Least and greatest of each group; NaN, both, if one is NaN."""
    if group % 16 == 0:
        _of_runs(values, group, least, most)
        return
    for g in range(least.shape[0]):
        low, high = _i32(0x7FFFFFFF), _i32(-0x80000000)
        for i in range(g * group, (g + 1) * group):
            key = _turned(_i32(as_u32(number(values, i))))
            low = min(low, key)
            high = max(high, key)
        least[g], most[g] = as_f32(_turned(low)), as_f32(_turned(high))
        if least[g] != least[g] or most[g] != most[g]:
            least[g] = most[g] = np.float32(np.nan)


@inline
def _turned(key: Any) -> Any:
    """The key of a number's bits, or its bits again: what is negative has all others turned."""
    return _i32(key ^ _i32(_i32(key >> _i32(31)) & _i32(0x7FFFFFFF)))


@inline
def _of_runs(values: Array, group: int, least: Floats, most: Floats) -> None:
    """`ends` of groups of whole runs of 16, sixteen groups together."""
    tiles = local(_tiles(), (2, 16, 16), _i32)
    low, high = local(_low(), 16, np.float32), local(_room(), 16, np.float32)
    for first in range(0, least.shape[0], 16):
        count = min(16, least.shape[0] - first)
        below, above = ends_lanes(values, first, count, group, tiles)
        put_lanes(low, 0, below)
        put_lanes(high, 0, above)
        for k in range(count):
            least[first + k], most[first + k] = low[k], high[k]


@forced
def ends_lanes(values: Array, first: int, count: int, group: int, tiles: Ints) -> Any:
    """Least and greatest numbers of up to 16 groups of whole runs of 16, a lane each.

    Both are NaN where one is; `tiles` is room for `[2, 16, 16]` int32.
    """
    low, high = tiles[0], tiles[1]
    for k in range(count):
        # Keys turned around: the greatest of them is the least number's.
        under, over = _farthest(values, (first + k) * group, (first + k + 1) * group)
        put_lanes(low, 16 * k, unpaired(values, under))
        put_lanes(high, 16 * k, unpaired(values, over))
    least, most = _of_keys(values, greatest_of(low) ^ -1), _of_keys(values, greatest_of(high))
    whole = (least == least) & (most == most)
    nan = splat(np.float32(np.nan))
    return choose(whole, least, nan), choose(whole, most, nan)


@forced
def _farthest(values: Array, at: int, end: int) -> Any:
    """The greatest of the keys turned around, and of the keys, of whole runs of 16.

    Of BF16 each lane has two keys of 16 bits, as `raised` has magnitudes.
    """
    under, over = splat(_LOWEST), splat(_LOWEST)
    if not is_bf16(values):
        for i in range(at, end, 16):
            bring(values, i + READ_AHEAD)
            bits = as_bits(lanes(values, i))
            key = bits ^ (bits >> 31 & 0x7FFFFFFF)
            under, over = most_of(key ^ -1, under), most_of(key, over)
        return under, over
    under, over = splat(_LOWEST_PAIR), splat(_LOWEST_PAIR)
    rest = end - (end - at) % 32
    for i in range(at, rest, 32):
        bring(values, i + READ_AHEAD)
        bits = words(values, i)
        signs = bits >> 15 & 0x00010001
        key = bits ^ ((signs << 15) - signs)  # 0x7FFF where a half is negative
        under, over = most_of_pairs(key ^ -1, under), most_of_pairs(key, over)
    if rest < end:
        bits = as_bits(lanes(values, rest))
        key = bits ^ (bits >> 31 & 0x7FFF0000)
        # The lower halves are no numbers.
        over = most_of_pairs(key | _LOWEST_PAIR & 0xFFFF, over)
        under = most_of_pairs((key ^ -1) & -0x10000 | _LOWEST_PAIR & 0xFFFF, under)
    return under, over


@inline
def _of_keys(values: Array, keys: Ints) -> Any:
    """The numbers of keys; of BF16 the lower half of a key says nothing."""
    if is_bf16(values):
        return as_reals((keys ^ (keys >> 31 & 0x7FFF0000)) & -0x10000)
    return as_reals(keys ^ (keys >> 31 & 0x7FFFFFFF))
