"""ggml's searches for a group's scale, of sixteen groups side by side (`_lanes`).

A group is a lane of `x`, float32 `[count, 16]`, whose line i has element i of every group. Each
step is one float32 operation, in ggml's order, so that the bits are its own. `weights`, of the same
shape, are what squares of errors count. Searches give the scale, and what codes are found again
with. Source: https://github.com/ggml-org/ggml, src/ggml-quants.c.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._ggml import LEAST_MAX
from anamnesis.kernels.bodies._jit import inline
from anamnesis.kernels.bodies._lane_memory import READ_AHEAD, bring, lanes, put_lanes
from anamnesis.kernels.bodies._lanes import (
    as_bits,
    as_reals,
    between,
    choose,
    greatest_of,
    is_any,
    least_of,
    most_of,
    reals,
    size_of,
    splat,
    wholes,
)
from anamnesis.kernels.types import Array, Floats

_f32 = np.float32
_MAGIC = np.float32(12582912)  # 1.5 * 2**23, whose last place is 1
_BELOW_HALF = 0x3EFFFFFF  # float32 bits of the number before 0.5
_SIGN = -0x80000000


@inline
def nearest_lanes(numbers: Floats) -> Any:
    """`nearest_int` of float32 lanes: ties to even; what is past 2**22 wraps, as there."""
    # 23 bits of mantissa are the number plus 2**22.
    return (as_bits(numbers + _MAGIC) & 0x007FFFFF) - 0x00400000


@inline
def held_lanes(numbers: Floats) -> Any:
    """Numbers as they are, and 0 for what no code is near."""
    return choose(size_of(numbers) < splat(_f32(1024)), numbers, splat(_f32(0)))


@inline
def away_lanes(numbers: Floats) -> Any:
    """`roundf` as int32: ties away from zero, since the number before a half is added."""
    held = held_lanes(numbers)
    # The sign of the number itself: away from zero on both sides.
    return wholes(held + as_reals(as_bits(held) & _SIGN | _BELOW_HALF))


@inline
def half_lanes(numbers: Floats) -> Any:
    """Binary16 bits of float32 lanes, as `half_bits`."""
    bits = as_bits(numbers)
    magnitude = bits & 0x7FFFFFFF
    # 23 bits of mantissa to 10: 13 go, ties to the even last place; exponents are 112 apart.
    normal = (magnitude + 0xFFF + (magnitude >> 13 & 1) - 0x38000000) >> 13
    # Below 2**-14: a count of 2**-24, the last place of 0.5.
    small = as_bits(as_reals(magnitude) + _f32(0.5)) - 0x3F000000
    half = choose(magnitude < splat(0x38800000), small, least_of(normal, splat(0x7C00)))
    half = choose(magnitude > splat(0x7F800000), splat(0x7E00), half)
    return half | bits >> 16 & 0x8000


@inline
def inverse_of(numbers: Floats) -> Any:
    """1 over each lane, and 0 for 0."""
    return choose(numbers != splat(_f32(0)), splat(_f32(1)) / numbers, splat(_f32(0)))


@inline
def sizes_of(values: Array, first: int, blocks: tuple[int, int], tile: Floats) -> Any:
    """The greatest magnitudes of up to 16 blocks of whole runs of 16, which `blocks` counts.

    A NaN is passed over; `tile` is room for `[16, 16]`.
    """
    count, elems = blocks
    for k in range(count):
        most = splat(_f32(0))
        for i in range(first + k * elems, first + (k + 1) * elems, 16):
            bring(values, i + READ_AHEAD)
            most = most_of(size_of(lanes(values, i)), most)
        put_lanes(tile, 16 * k, most)
    return greatest_of(tile)


@inline
def squares(x: Floats, count: int) -> Any:
    """The sum of the squares of each lane."""
    total = splat(_f32(0))
    for i in range(count):
        total = total + lanes(x, 16 * i) * lanes(x, 16 * i)
    return total


@inline
def codes_above(numbers: Floats, inverse: Floats, least: Floats, most: int) -> Any:
    """Codes 0 to `most` of numbers, counted from `least`: int32 lanes."""
    return between(nearest_lanes((numbers - least) * inverse), 0, most)


@inline
def _ends_and_sums(x: Floats, weights: Floats, count: int) -> Any:
    """The least and greatest numbers, and the sums of weights and of weighted numbers."""
    low = high = lanes(x, 0)
    sum_w = lanes(weights, 0)
    sum_x = sum_w * low
    for i in range(1, count):
        value, weight = lanes(x, 16 * i), lanes(weights, 16 * i)
        low = choose(value < low, value, low)
        high = choose(value > high, value, high)
        sum_w = sum_w + weight
        sum_x = sum_x + weight * value
    return low, high, sum_w, sum_x


@inline
def search_with_minimum(
    x: Floats,
    weights: Floats,
    tried: Floats,
    count: int,
    most: int,
    steps: tuple[np.float32, np.float32, int],
    absolute: bool,
) -> Any:
    """`make_qkx2_quants`, and with other `steps` `make_qkx3_quants`.

    Scales of `most + start + delta * k` codes are tried, k from 0 to `last`, where `steps` is
    `(start, delta, last)`; `absolute` takes the weighted distances, else their squares. `tried` is
    room like `x`. Returned are the scale, the minimum, and the inverse and the least number that
    the codes of these were found with.
    """
    (start, delta, last), zero = steps, splat(_f32(0))
    low, high, sum_w, sum_x = _ends_and_sums(x, weights, count)
    # Minima are stored without a sign: a group has 0 at least in its range.
    low = choose(low > zero, zero, low)
    inverse = splat(_f32(most)) / (high - low)
    scale, minimum = splat(_f32(1)) / inverse, low
    best_inverse, best_least, best = inverse, low, zero
    for i in range(count):
        value = lanes(x, 16 * i)
        gap = scale * reals(codes_above(value, inverse, low, most)) + minimum - value
        best = best + lanes(weights, 16 * i) * (size_of(gap) if absolute else gap * gap)
    for step in range(last + 1):
        # The search keeps what it compares with: codes are counted from the least found so far.
        least = minimum
        inverse = splat(_f32(_f32(start + _f32(delta * _f32(step))) + _f32(most))) / (high - least)
        sum_l, sum_l2, sum_xl = zero, zero, zero
        for i in range(count):
            value = lanes(x, 16 * i)
            code = reals(codes_above(value, inverse, least, most))
            put_lanes(tried, 16 * i, code)
            weighted = lanes(weights, 16 * i) * code
            sum_l = sum_l + weighted
            sum_l2 = sum_l2 + weighted * code
            sum_xl = sum_xl + weighted * value
        # Least squares of `scale * code + minimum`: two linear equations.
        determinant = sum_w * sum_l2 - sum_l * sum_l
        this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        # A minimum above 0 is none; the scale is that of a line through 0.
        this_scale = choose(this_min > zero, sum_xl / sum_l2, this_scale)
        this_min = choose(this_min > zero, zero, this_min)
        error = zero
        for i in range(count):
            gap = this_scale * lanes(tried, 16 * i) + this_min - lanes(x, 16 * i)
            error = error + lanes(weights, 16 * i) * (size_of(gap) if absolute else gap * gap)
        better = (determinant > zero) & (error < best)
        best, scale = choose(better, error, best), choose(better, this_scale, scale)
        minimum = choose(better, this_min, minimum)
        best_inverse = choose(better, inverse, best_inverse)
        best_least = choose(better, least, best_least)
    # Where all numbers are one, so that nothing was searched for.
    flat = high == low
    scale, minimum = choose(flat, zero, scale), choose(flat, low, minimum)
    return scale, minimum, choose(flat, zero, best_inverse), choose(flat, zero, best_least)


@inline
def signed_ends(x: Floats, first: int, count: int) -> Any:
    """The number of greatest magnitude of each lane, the first of equals, and that magnitude."""
    signed = most = splat(_f32(0))
    for i in range(first, first + count):
        value = lanes(x, 16 * i)
        size = size_of(value)
        signed, most = choose(size > most, value, signed), most_of(size, most)
    return signed, most


@inline
def _sums(x: Floats, weights: Floats, count: int, half: int, inverse: Floats) -> Any:
    """The weighted sums of products of codes and numbers, and of squares of codes."""
    sum_lx = sum_l2 = splat(_f32(0))
    for i in range(count):
        value, weight = lanes(x, 16 * i), lanes(weights, 16 * i)
        code = reals(between(nearest_lanes(inverse * value), -half, half - 1))
        sum_lx = sum_lx + weight * value * code
        sum_l2 = sum_l2 + weight * code * code
    return sum_lx, sum_l2


@inline
def search_signed(x: Floats, weights: Floats, count: int, half: int) -> Any:
    """`make_qx_quants`: the scale of codes `-half` to `half - 1`, and these codes' inverse."""
    signed, most = signed_ends(x, 0, count)
    zero = splat(_f32(0))
    # The first try is at `half` itself; then -9 to 9 tenths away from it, without 0.
    best_inverse = splat(_f32(-half)) / signed
    sum_lx, sum_l2 = _sums(x, weights, count, half, best_inverse)
    scale = choose(sum_l2 != zero, sum_lx / sum_l2, zero)
    best = scale * sum_lx
    for step in range(-9, 10):
        if step == 0:
            continue
        inverse = splat(_f32(-_f32(_f32(half) + _f32(_f32(0.1) * _f32(step))))) / signed
        sum_lx, sum_l2 = _sums(x, weights, count, half, inverse)
        # What a scale of least squares leaves is smaller where `sum_lx ** 2 / sum_l2` is greater.
        better = (sum_l2 > zero) & (sum_lx * sum_lx > best * sum_l2)
        scale = choose(better, sum_lx / sum_l2, scale)
        best = choose(better, scale * sum_lx, best)
        best_inverse = choose(better, inverse, best_inverse)
    none = most < splat(LEAST_MAX)
    return choose(none, zero, scale), choose(none, zero, best_inverse)


@inline
def _first_codes(x: Floats, codes: Floats, first: int) -> Any:
    """Codes of the 16 lines from `first` on, under -4 over the end; their sums."""
    signed, most = signed_ends(x, first, 16)
    inverse = splat(_f32(-4)) / signed
    sum_lx = sum_l2 = splat(_f32(0))
    for i in range(first, first + 16):
        value = lanes(x, 16 * i)
        code = reals(between(nearest_lanes(inverse * value), -4, 3))
        put_lanes(codes, 16 * i, code)
        weight = value * value
        sum_lx = sum_lx + weight * value * code
        sum_l2 = sum_l2 + weight * code * code
    return sum_lx, sum_l2, most


@inline
def _improved(x: Floats, codes: Floats, i: int, sums: tuple[Floats, Floats]) -> Any:
    """The sums after line i's codes were chosen again, and the lanes where one changed."""
    sum_lx, sum_l2 = sums
    zero = splat(_f32(0))
    value, code = lanes(x, 16 * i), lanes(codes, 16 * i)
    weight = value * value
    # The sums of all other elements, whose best scale is their quotient.
    other_lx, other_l2 = sum_lx - weight * value * code, sum_l2 - weight * code * code
    new = reals(between(nearest_lanes(value * other_l2 / other_lx), -4, 3))
    new_lx, new_l2 = other_lx + weight * value * new, other_l2 + weight * new * new
    more = (new_l2 > zero) & (new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2)
    better = (other_lx > zero) & (new != code) & more
    put_lanes(codes, 16 * i, choose(better, new, code))
    return (choose(better, new_lx, sum_lx), choose(better, new_l2, sum_l2)), better


@inline
def _found_3(codes: Floats, first: int, sums: tuple[Floats, Floats], most: Floats) -> Any:
    zero = splat(_f32(0))
    none = most < splat(LEAST_MAX)
    for i in range(first, first + 16):
        put_lanes(codes, 16 * i, choose(none, splat(_f32(-4)), lanes(codes, 16 * i)))
    return choose(none, zero, choose(sums[1] > zero, sums[0] / sums[1], zero))


@inline
def search_signed_3(x: Floats, codes: Floats) -> Any:
    """`make_q3_quants` of 16 elements: the scales of codes -4 to 3, which go to `codes` as reals.

    `x` is two tiles of 16 lines: each step waits for the one before, so two searches take hardly
    longer than one.
    """
    sum_lx, sum_l2, most = _first_codes(x, codes, 0)
    sums, ones, zeros = (sum_lx, sum_l2), splat(1), splat(0)
    sum_lx, sum_l2, most_1 = _first_codes(x, codes, 16)
    sums_1 = sum_lx, sum_l2
    for _ in range(5):
        # Lanes in which a round changed nothing would change nothing in the next one.
        changes = zeros
        for i in range(16):
            sums, better = _improved(x, codes, i, sums)
            sums_1, better_1 = _improved(x, codes, 16 + i, sums_1)
            changes = choose(better, ones, choose(better_1, ones, changes))
        if not is_any(changes > zeros):
            break
    return _found_3(codes, 0, sums, most), _found_3(codes, 16, sums_1, most_1)
