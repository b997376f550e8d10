"""Bodies of `kernels/encode_fp8.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._extremes import raised, unpaired
from anamnesis.kernels.bodies._jit import forced, inline, local, stack, variants
from anamnesis.kernels.bodies._lane_memory import (
    READ_AHEAD,
    bring,
    bring_closer,
    is_bf16,
    lanes,
    put_bytes,
    put_lanes,
    put_more_bytes,
    put_some,
    some,
)
from anamnesis.kernels.bodies._lanes import (
    as_bits,
    as_reals,
    choose,
    fused,
    greatest_of,
    least_of,
    most_of,
    most_of_pairs,
    splat,
)
from anamnesis.kernels.bodies._mx import groups_by
from anamnesis.kernels.bodies._narrow_lanes import rounded_lanes
from anamnesis.kernels.bodies._quotients import (
    F16,
    is_sharp,
    quotients,
    reciprocal,
    reciprocals,
    refined,
    sharpened,
    shifted,
)
from anamnesis.kernels.types import Array, Bytes, Floats, Ints

_NAN = np.float32(np.nan)
_LARGEST = 0x43E00000  # float32 bits of 448
PLACES = 19  # zeros at the end of a tie of E4M3 as float32: it has 5 bits, one of them not stored
_ZERO, _LARGEST_REAL = np.float32(0), np.float32(448)
_DOUBLE, _EXCESS = np.float32(2), np.float32(-(2.0**-6))
_room, _codes, _factors, _scales, _tile = *(stack(64) for _ in range(4)), stack(1024)


@inline
def e4m3_bytes(numbers: Floats) -> Any:
    """E4M3 codes of float32 lanes, saturated, nearest even; 0x7F for NaN, with its sign.

    They are the low bytes of the lanes; what is above means nothing.
    """
    bits = as_bits(numbers)
    # Bits of positive float32 are in the order of the numbers, so that integers compare.
    whole = bits & 0x7FFFFFFF
    code = _e4m3_of(least_of(whole, splat(_LARGEST)))
    code = choose(whole > splat(0x7F800000), splat(0x7F), code)
    return code & 0x7F | bits >> 24 & -0x80


@inline
def _e4m3_within(numbers: Floats, signed: Floats) -> Any:
    """The same of magnitudes below 464, with the signs of others."""
    code = _e4m3_of(as_bits(numbers) & 0x7FFFFFFF)
    return code & 0x7F | as_bits(signed) >> 24 & -0x80


@inline
def _e4m3_of(magnitude: Ints) -> Any:
    """E4M3 codes, in the low seven bits, of the bits of numbers below 464, not negative."""
    # Steps are 2**-3 of a number's power of two, but never below those of 2**-6. A number 2**20
    # times the power has that step as its last place: their sum is rounded, and ends in the count
    # of steps, 8 to 16, or below 2**-6 0 to 8. The code is that count and 8 for each power from
    # 2**-6 on, whose exponent's field is 121: 0x38 takes 8 * 121 off, in a byte.
    power = most_of(magnitude & 0x7F800000, splat(121 << 23))
    steps = as_bits(as_reals(magnitude) + as_reals(power + (20 << 23 | 0x38)))
    return steps + (power >> 20)


@inline
def e4m3_lanes(numbers: Floats) -> Any:
    """`e4m3_bytes` as int32."""
    return e4m3_bytes(numbers) & 0xFF


@inline
def e4m3_reals(codes: Ints) -> Any:
    """The numbers of E4M3 codes without a sign, int32 lanes; NaN for 0x7F."""
    return e4m3_placed(codes << 20)


@inline
def e4m3_placed(codes: Ints) -> Any:
    """The same of codes that lie where the bits of a float32 do, from bit 20 on."""
    # Exponents are 120 apart. A subnormal, m eighths of 2**-6, becomes 8 + m sixteenths of that,
    # whose double is 2**-6 too great; of other numbers that difference is not the lesser one.
    found = as_reals(codes + (120 << 23))
    found = least_of(fused(found, splat(_DOUBLE), splat(_EXCESS)), found)
    return choose(codes == splat(0x7F << 20), splat(_NAN), found)


@variants
def micro(kind: int, zero: bool) -> Any:
    """`_mx.groups_by` for E4M3 codes of quotients rounded to `kind`; with `zero`, -0 is 0."""

    divided = shifted(kind)

    def store(out: Bytes, at: int, numbers: Floats, scale: np.float32, inverse: np.float32) -> None:
        found = divided(numbers, scale, inverse)
        put_bytes(out, at, e4m3_bytes(found + _ZERO if zero else found))

    return groups_by(store)


@variants
def codes_of(kind: int, zero: bool) -> Any:
    """`(values, scales, group, out)`: codes of values over their scales, one for each group.

    `values` and `out` are flat. Quotients are rounded to `kind`; with `zero`, 0 is added, after
    which -0 is 0.
    """
    divided = quotients(kind, PLACES)

    def code(numbers: Floats, scale: np.float32, inverse: np.float32) -> Any:
        found = divided(numbers, scale, inverse)
        return e4m3_bytes(found + _ZERO if zero else found)

    def run(values: Array, scales: Floats, group: int, out: Bytes) -> None:
        room, codes = local(_room(), 16, np.float32), local(_codes(), 16, np.int32)
        for g in range(scales.shape[0]):
            scale, end = scales[g], (g + 1) * group
            inverse = reciprocal(scale)
            # Sixteen at a time; what is left goes through `some`, zeros in the other lanes.
            rest = end - group % 16
            for i in range(g * group, rest, 16):
                bring(values, i + READ_AHEAD)
                put_bytes(out, i, code(lanes(values, i), scale, inverse))
            if rest < end:
                found = code(some(values, rest, end, room), scale, inverse)
                put_some(out, rest, end, found, codes)

    code = inline(code)
    return run


@forced
def _greatest(values: Array, span: tuple[int, int], ahead: int, most: Ints, room: Floats) -> Any:
    """`raised` of any range of numbers."""
    rest = span[1] - (span[1] - span[0]) % 16
    most = raised(values, (span[0], rest), ahead, most)
    if rest < span[1]:
        left = as_bits(some(values, rest, span[1], room)) & 0x7FFFFFFF
        most = most_of_pairs(left, most) if is_bf16(values) else most_of(left, most)
    return most


@forced
def _magnitudes(
    values: Array, rows: tuple[int, int, int], blocks: tuple[int, int, int], ahead: int, tile: Ints
) -> Any:
    """The greatest magnitudes of up to 16 blocks: `(first, last, width)` of rows, a range's."""
    (top, bottom, columns), (first, last, width) = rows, blocks
    room = local(_room(), 16, np.float32)
    whole = columns % width == 0 and width % 16 == 0
    for k in range(16):
        put_lanes(tile, 16 * k, splat(0))
    for row in range(top, bottom, columns):
        for g in range(first, last):
            at, most = row + g * width, lanes(tile, 16 * (g - first))
            if whole:
                most = raised(values, (at, at + width), ahead, most)
            else:
                end = row + min(columns, (g + 1) * width)
                most = _greatest(values, (at, end), ahead, most, room)
            put_lanes(tile, 16 * (g - first), most)
    for k in range(16):
        put_lanes(tile, 16 * k, unpaired(values, lanes(tile, 16 * k)))
    return as_reals(greatest_of(tile))


def _scales_of(style: str, kind: int) -> Any:
    """Scales of blocks by their greatest magnitudes, and what numbers are multiplied by."""
    ours, multiply = style == "compressed-tensors", style == "transformers"

    def scales_of(greatest: Floats, least: np.float32) -> Any:
        zero, one = splat(_ZERO), splat(np.float32(1))
        if multiply:
            # torch divides a number by a tensor as the tensor's reciprocal times the number.
            factors = choose(greatest > zero, one / greatest * _LARGEST_REAL, one)
            return one / factors, factors
        found = rounded_lanes(greatest / _LARGEST_REAL, kind)
        # DeepSeek's blocks of zeros, and of what is as good as zero, have the scale 1.
        found = choose(found == zero, splat(least) if ours else one, found)
        return found, reciprocals(found)

    return inline(scales_of)


def _fill(style: str, kind: int) -> Any:
    """The codes of numbers of a row that are of one block."""
    ours, multiply = style == "compressed-tensors", style == "transformers"
    divided = quotients(kind, PLACES)

    def code(numbers: Floats, scale: np.float32, factor: np.float32, short: bool) -> Any:
        if multiply:
            return e4m3_bytes(numbers * factor)
        if ours:
            return e4m3_bytes(divided(numbers, scale, factor) + _ZERO)
        found = refined(numbers, scale, factor) if short else divided(numbers, scale, factor)
        return e4m3_bytes(found)

    def fill(
        values: Array,
        span: tuple[int, int],
        ahead: int,
        by: tuple[np.float32, np.float32],
        out: Bytes,
    ) -> None:
        room, codes = local(_room(), 16, np.float32), local(_codes(), 16, np.int32)
        rest, short = span[1] - (span[1] - span[0]) % 16, is_bf16(values)
        for i in range(span[0], rest, 16):
            bring_closer(values, i + ahead)
            put_bytes(out, i, code(lanes(values, i), by[0], by[1], short))
        # What is left goes through `some`, zeros in the other lanes.
        if rest < span[1]:
            numbers = some(values, rest, span[1], room)
            put_some(out, rest, span[1], code(numbers, by[0], by[1], short), codes)

    code = inline(code)
    return forced(fill)


def _fill_sharp(style: str, kind: int) -> Any:
    """The same of whole steps of 32 numbers under a scale that leaves nothing to cut off."""
    ours, divided = style == "compressed-tensors", quotients(kind, PLACES)

    def code(numbers: Floats, scale: np.float32, factor: np.float32, short: bool) -> Any:
        if short and not ours:
            return _e4m3_within(sharpened(numbers, scale, factor), numbers)
        found = divided(numbers, scale, factor)
        if ours:
            found = found + _ZERO
        return _e4m3_within(found, found)

    def fill(
        values: Array,
        span: tuple[int, int],
        ahead: int,
        by: tuple[np.float32, np.float32],
        out: Bytes,
    ) -> None:
        short = is_bf16(values)
        for i in range(span[0], span[1], 32):
            bring_closer(values, i + ahead)
            first = code(lanes(values, i), by[0], by[1], short)
            second = code(lanes(values, i + 16), by[0], by[1], short)
            put_more_bytes(out, i, first, second)

    code = inline(code)
    return forced(fill)


@variants
def blocks(style: str, kind: int) -> Any:
    """`(values, columns, size, least, scales, out)`: scales of blocks, then codes.

    `values` and `out` are flat, rows of `columns`; `size` is the rows and columns of a block, and
    `scales`, float32 `[lines, blocks]`, are filled. compressed-tensors computes in `kind`, and has
    `least` for a scale of 0.
    """
    scales_of, fill, fill_sharp = (of(style, kind) for of in (_scales_of, _fill, _fill_sharp))
    # A scale that is a 448th of the greatest magnitude, or next to it, leaves no code to cut off.
    within = style != "transformers" and kind != F16

    def run(
        values: Array,
        columns: int,
        size: tuple[int, int],
        least: float,
        scales: Array,
        out: Bytes,
    ) -> None:
        tile = local(_tile(), (16, 16), np.int32)
        dividers, factors = local(_scales(), 16, np.float32), local(_factors(), 16, np.float32)
        every, (rows, width), wide = values.shape[0], size, scales.shape[1]
        # Sixteen blocks of a row, then the same of the next row.
        ahead = columns if rows > 1 else READ_AHEAD
        for line in range(scales.shape[0]):
            top, bottom = line * rows * columns, min((line + 1) * rows * columns, every)
            for first in range(0, wide, 16):
                last, sharp = min(first + 16, wide), within
                group = first, last, width
                greatest = _magnitudes(values, (top, bottom, columns), group, ahead, tile)
                found, inverses = scales_of(greatest, np.float32(least))
                put_lanes(dividers, 0, found)
                put_lanes(factors, 0, inverses)
                for k in range(last - first):
                    scales[line, first + k] = dividers[k]
                    sharp = sharp and is_sharp(dividers[k], factors[k])
                sharp = sharp and columns % width == 0 and width % 32 == 0
                # What comes next is read meanwhile, as far as the second cache.
                following = 16 * width if last < wide else rows * columns - first * width
                for row in range(top, bottom, columns):
                    for g in range(first, last):
                        at, by = row + g * width, (dividers[g - first], factors[g - first])
                        if sharp:
                            fill_sharp(values, (at, at + width), following, by, out)
                        else:
                            end = row + min(columns, (g + 1) * width)
                            fill(values, (at, end), following, by, out)

    return run
