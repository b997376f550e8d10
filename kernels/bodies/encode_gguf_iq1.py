"""Bodies of `kernels/encode_gguf_iq1.py`, which has the layout.

With three numbers to choose from, sorted elements are cut in three at the best of all places.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._ggml import clamped, half_bits, nearest, put_half
from anamnesis.kernels.bodies._jit import inline, jit, local, stack
from anamnesis.kernels.bodies.bits import u32
from anamnesis.kernels.types import Array, Bytes, Floats, Halves, Ints, Real

_f32 = np.float32
_i32 = np.int32
_LOWEST, _HIGHEST = np.float32(-3.4028234663852886e38), np.float32(3.4028234663852886e38)
# -1, 0 and 1, moved up by an eighth, or down.
_MOVED = np.array([[-0.875, 0.125, 1.125], [-1.125, -0.125, 0.875]], np.float32)

_order, _codes, _index = stack(128), stack(128), stack(16)
_scales, _shifts = stack(64), stack(64)
_sums_x, _sums_w = stack(132), stack(132)
_products, _squares, _terms = stack(768), stack(768), stack(96)


@inline
def _sorted(values: Floats, first: int, count: int, order: Ints) -> Any:
    """Places of numbers in ascending order, equal ones as they came; the greatest magnitude."""
    most = abs(values[first])
    for i in range(count):
        value, at = values[first + i], i
        most = most if most > abs(value) else abs(value)
        while at > 0 and values[first + order[at - 1]] > value:
            order[at] = order[at - 1]
            at -= 1
        order[at] = _i32(i)
    return most


@inline
def _set_codes(
    order: Ints, cuts: tuple[int, int], count: int, scale: np.float32, codes: Ints
) -> None:
    """Codes 0, 1 and 2 of the three parts; the other way round under a scale below 0."""
    first, second = cuts
    for j in range(count):
        code = _i32(0 if j < first else 1 if j < second else 2)
        codes[order[j]] = _i32(2) - code if scale < 0 else code


@inline
def _nearest_point(
    tables: tuple[Bytes, Ints, Halves],
    values: Floats,
    weights: Floats,
    at: int,
    codes: Ints,
    moved: tuple[np.float32, int],
) -> Any:
    """The number of eight codes' point, or the best of its neighbours; and whether it is a point.

    `moved` are a scale and the row of `_MOVED`. Where nothing compares, which aborts in ggml, the
    nearest neighbour is taken.
    """
    grid, index, neighbours = tables
    place, scale, row = codes, moved[0], moved[1]
    key = 0
    for i in range(8):
        key |= int(place[i]) << (2 * i)
    number = int(index[key])
    if number >= 0:
        return number, 1
    start = -number - 1
    terms = local(_terms(), 24, _f32)
    for i in range(8):
        for code in range(3):
            gap = _f32(_f32(scale * _MOVED[row, code]) - values[at + i])
            terms[3 * i + code] = _f32(_f32(weights[at + i] * gap) * gap)
    best, found = _HIGHEST, int(neighbours[start + 1])
    for j in range(start + 1, start + 1 + int(neighbours[start])):
        point = int(neighbours[j])
        distance = terms[grid[point, 0]]
        for i in range(1, 8):
            distance = _f32(distance + terms[3 * i + int(grid[point, i])])
        if distance < best:
            best, found = distance, point
    return found, 0


@inline
def _sums_of(
    tables: tuple[Bytes, Ints, Halves],
    values: Floats,
    weights: Floats,
    at: int,
    point: int,
    row: int,
    sums: tuple[np.float32, np.float32],
) -> Any:
    """Sums of products of numbers and a moved point, and of its squares, added to `sums`."""
    sum_qx, sum_q2 = sums
    for i in range(8):
        number, weight = _MOVED[row, tables[0][point, i]], weights[at + i]
        sum_qx = _f32(sum_qx + _f32(_f32(weight * number) * values[at + i]))
        sum_q2 = _f32(sum_q2 + _f32(_f32(weight * number) * number))
    return sum_qx, sum_q2


@inline
def _row_of(k: int, half: int) -> Any:
    """The row of `_MOVED` of the first or second eight elements under the k-th pair of shifts."""
    return k >> 1 if half == 0 else k & 1


@inline
def _fitted(
    tables: tuple[Bytes, Ints, Halves],
    values: Floats,
    weights: Floats,
    first: int,
    codes: Ints,
    moved: tuple[np.float32, int],
    points: Ints,
) -> Any:
    """The numbers of a group's points, and the scale: where one was not in the grid, the best.

    `moved` are the scale so far and the pair of shifts.
    """
    scale, pair = moved
    whole, sums = 1, (_f32(0), _f32(0))
    for k in range(points.shape[0]):
        own, row, at = codes[8 * k : 8 * k + 8], _row_of(pair, k), first + 8 * k
        point, is_there = _nearest_point(tables, values, weights, at, own, (scale, row))
        points[k] = point
        whole &= is_there
        sums = _sums_of(tables, values, weights, at, point, row, sums)
    if not whole and sums[0] > 0 and sums[1] > 0:
        scale = np.divide(sums[0], sums[1])
    return scale


@inline
def _cut_once(values: Floats, weights: Floats, first: int, order: Ints, most: Real) -> Any:
    """The best cuts of 32 elements under one shift: cuts, the row of `_MOVED` (-1: none), scale."""
    sums_x, sums_w = local(_sums_x(), 33, _f32), local(_sums_w(), 33, _f32)
    sums_x[0] = sums_w[0] = _f32(0)
    for j in range(32):
        at = first + order[j]
        sums_x[j + 1] = _f32(sums_x[j] + _f32(weights[at] * values[at]))
        sums_w[j + 1] = _f32(sums_w[j] + weights[at])
    best, scale = _LOWEST, most
    low, high, shift = 0, 0, -1
    for i in range(33):
        for k in range(i, 33):
            for row in range(2):
                a, b, c = _MOVED[row, 0], _MOVED[row, 1], _MOVED[row, 2]
                # Elements below cut i are -1, from i to k 0, and from k on 1: sums of each part are
                # differences of running sums.
                x0, x1 = sums_x[i] - sums_x[0], sums_x[k] - sums_x[i]
                x2 = sums_x[32] - sums_x[k]
                w0, w1 = sums_w[i] - sums_w[0], sums_w[k] - sums_w[i]
                w2 = sums_w[32] - sums_w[k]
                sum_qx = _f32(_f32(_f32(x0 * a) + _f32(x1 * b)) + _f32(x2 * c))
                squares = _f32(_f32(_f32(w0 * a) * a) + _f32(_f32(w1 * b) * b))
                sum_q2 = _f32(squares + _f32(_f32(w2 * c) * c))
                if sum_q2 > 0 and _f32(sum_qx * sum_qx) > _f32(best * sum_q2):
                    scale = np.divide(sum_qx, sum_q2)
                    best = _f32(scale * sum_qx)
                    low, high, shift = i, k, row
    return low, high, shift, scale


@jit
def iq1_s(
    values: Floats, weights: Floats, grid: Bytes, index: Array, neighbours: Array, out: Bytes
) -> None:
    """IQ1_S: `d` f16, 32 bytes of points, and 16 bits a run of 32."""
    tables = grid, index, neighbours
    order, codes = local(_order(), 32, _i32), local(_codes(), 32, _i32)
    points = local(_index(), 4, _i32)
    scales, shifts = local(_scales(), 8, _f32), local(_shifts(), 8, _i32)
    for b in range(values.shape[0] // 256):
        at, most_scale = 50 * b, _f32(0)
        for i in range(50):
            out[at + i] = np.uint8(0)
        for g in range(8):
            first = 256 * b + 32 * g
            scales[g], shifts[g] = _f32(0), 0
            most = _sorted(values, first, 32, order)
            if most < _f32(1e-12):
                continue
            low, high, row, scale = _cut_once(values, weights, first, order, most)
            if row < 0:
                continue
            # A scale below 0 is taken as its opposite, with codes and shift mirrored.
            _set_codes(order, (low, high), 32, scale, codes)
            if scale < 0:
                scale, row = -scale, 1 - row
            # The third pair of shifts is the second row for both, the pair 0 the first.
            scale = _fitted(tables, values, weights, first, codes, (scale, 3 * row), points)
            bits = 0
            for k in range(4):
                out[at + 2 + 4 * g + k] = np.uint8(points[k] & 0xFF)
                # qh: bits 3 k to 3 k + 2 are bits 8-10 of point k.
                bits |= (int(points[k]) >> 8) << (3 * k)
            out[at + 34 + 2 * g] = np.uint8(bits & 0xFF)
            out[at + 35 + 2 * g] = np.uint8(bits >> 8)
            scales[g], shifts[g] = scale, row
            most_scale = most_scale if most_scale > scale else scale
        if most_scale == 0:
            continue
        # A scale of three bits s stands for 2 s + 1: 15 at most. The factor is ggml's.
        d = np.divide(most_scale, _f32(15))
        put_half(out, at, half_bits(_f32(d * _f32(1.125))))
        inverse = np.divide(_f32(1), d)
        for g in range(8):
            code = nearest(_f32(_f32(0.5) * _f32(_f32(inverse * scales[g]) - _f32(1))))
            # The high byte of a word of qh: bits 4-6 the scale, bit 7 the sign of the shift.
            out[at + 35 + 2 * g] |= np.uint8((clamped(code, 0, 7) | shifts[g] << 3) << 4)


@inline
def _cut_twice(values: Floats, weights: Floats, first: int, order: Ints, most: np.float32) -> Any:
    """The best cuts of 16 elements under two shifts: cuts, the pair (-1: none), the scale."""
    products = local(_products(), (3, 16, 4), _f32)
    squares = local(_squares(), (3, 16, 4), _f32)
    for part in range(3):
        for j in range(16):
            at = first + order[j]
            for k in range(4):
                number = _MOVED[_row_of(k, order[j] >> 3), part]
                weighted = _f32(weights[at] * number)
                products[part, j, k] = _f32(weighted * values[at])
                squares[part, j, k] = _f32(weighted * number)
    best, scale = _LOWEST, most
    low, high, pair = 0, 0, -1
    for i1 in range(17):
        for i2 in range(i1, 17):
            for k in range(4):
                sum_qx, sum_q2 = _f32(0), _f32(0)
                for j in range(16):
                    part = 0 if j < i1 else 1 if j < i2 else 2
                    sum_qx = _f32(sum_qx + products[part, j, k])
                    sum_q2 = _f32(sum_q2 + squares[part, j, k])
                if sum_q2 > 0 and _f32(sum_qx * sum_qx) > _f32(best * sum_q2):
                    scale = np.divide(sum_qx, sum_q2)
                    best = _f32(scale * sum_qx)
                    low, high, pair = i1, i2, k
    return low, high, pair, scale


@jit
def iq1_m(
    values: Floats, weights: Floats, grid: Bytes, index: Ints, neighbours: Halves, out: Bytes
) -> None:
    """IQ1_M: 32 bytes of points, 16 of their high bits and shifts, 8 of scales."""
    tables = grid, index, neighbours
    order, codes = local(_order(), 16, _i32), local(_codes(), 16, _i32)
    points = local(_index(), 2, _i32)
    scales, shifts = local(_scales(), 16, _f32), local(_shifts(), 16, _i32)
    for b in range(values.shape[0] // 256):
        at, most_scale = 56 * b, _f32(0)
        for i in range(56):
            out[at + i] = np.uint8(0)
        for g in range(16):
            first = 256 * b + 16 * g
            scales[g], shifts[g] = _f32(0), 0
            most = _sorted(values, first, 16, order)
            if most < _f32(1e-7):
                continue
            low, high, pair, scale = _cut_twice(values, weights, first, order, most)
            if pair < 0:
                continue
            _set_codes(order, (low, high), 16, scale, codes)
            if scale < 0:
                scale, pair = -scale, 3 - pair
            scale = _fitted(tables, values, weights, first, codes, (scale, pair), points)
            out[at + 2 * g] = np.uint8(points[0] & 0xFF)
            out[at + 2 * g + 1] = np.uint8(points[1] & 0xFF)
            # qh: bits 0-2 and 4-6 of byte g are bits 8-10 of both points of run g.
            out[at + 32 + g] = np.uint8(points[0] >> 8 | (points[1] >> 8) << 4)
            scales[g], shifts[g] = scale, pair
            most_scale = most_scale if most_scale > scale else scale
        if most_scale > 0:
            _store_m(values, weights, tables, (scales, shifts, most_scale), b, out)


@inline
def _store_m(
    values: Floats,
    weights: Floats,
    tables: tuple[Bytes, Ints, Halves],
    found: tuple[Floats, Ints, np.float32],
    b: int,
    out: Bytes,
) -> None:
    """Scales of three bits, and the block's, that is best with them."""
    scales, shifts, most_scale = found
    at = 56 * b
    d = np.divide(most_scale, _f32(15))
    inverse = np.divide(_f32(1), d)
    sum_qx, sum_q2 = _f32(0), _f32(0)
    for g in range(16):
        code = nearest(_f32(_f32(0.5) * _f32(_f32(inverse * scales[g]) - _f32(1))))
        code = clamped(code, 0, 7)
        # scales: bits 3 k to 3 k + 2 of word i are run 4 i + k.
        word = u32(code) << u32(3 * (g % 4))
        out[at + 48 + 2 * (g // 4)] |= np.uint8(word & u32(0xFF))
        out[at + 49 + 2 * (g // 4)] |= np.uint8(word >> u32(8))
        for k in range(2):
            row = _row_of(shifts[g], k)
            high = int(out[at + 32 + g]) >> (4 * k) & 7
            # Bits 3 and 7 of byte g of qh are the signs of the shifts.
            out[at + 32 + g] |= np.uint8(row << (3 + 4 * k))
            point = int(out[at + 2 * g + k]) | high << 8
            for i in range(8):
                where = 256 * b + 16 * g + 8 * k + i
                number = _f32(_MOVED[row, tables[0][point, i]] * _f32(2 * code + 1))
                weighted = _f32(weights[where] * number)
                sum_qx = _f32(sum_qx + _f32(weighted * values[where]))
                sum_q2 = _f32(sum_q2 + _f32(weighted * number))
    if sum_q2 > 0:
        d = np.divide(sum_qx, sum_q2)
    bits = half_bits(_f32(d * _f32(1.1125)))
    for i in range(4):
        # Bits 12-15 of word i of scales are nibble i of the block's f16.
        nibble = u32(bits) >> u32(4 * i) & u32(15)
        out[at + 49 + 2 * i] |= np.uint8(nibble << u32(4))
