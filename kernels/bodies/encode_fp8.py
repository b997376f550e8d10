"""Bodies of `kernels/encode_fp8.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import forced, inline, local, stack, variants
from anamnesis.kernels.bodies._lane_memory import (
    READ_AHEAD,
    bring,
    lanes,
    put_bytes,
    put_lanes,
    put_some,
    some,
)
from anamnesis.kernels.bodies._lanes import (
    as_bits,
    as_reals,
    choose,
    greatest_of,
    least_of,
    most_of,
    reals,
    splat,
)
from anamnesis.kernels.bodies._mx import groups_by
from anamnesis.kernels.bodies._narrow_lanes import rounded_lanes
from anamnesis.kernels.bodies._quotients import quotients, reciprocal, reciprocals, refined, shifted
from anamnesis.kernels.types import Array, Bytes, Floats, Ints

_NAN = np.float32(np.nan)
_LARGEST = 0x43E00000  # float32 bits of 448
PLACES = 19  # zeros at the end of a tie of E4M3 as float32: it has 5 bits, one of them not stored
_ZERO, _LARGEST_REAL = np.float32(0), np.float32(448)
_room, _codes, _factors, _scales, _tile = *(stack(64) for _ in range(4)), stack(1024)


@inline
def e4m3_bytes(numbers: Floats) -> Any:
    """E4M3 codes of float32 lanes, saturated, nearest even; 0x7F for NaN, with its sign.

    They are the low bytes of the lanes; what is above means nothing.
    """
    bits = as_bits(numbers)
    # Bits of positive float32 are in the order of the numbers, so that integers compare.
    whole = bits & 0x7FFFFFFF
    magnitude = least_of(whole, splat(_LARGEST))
    # Steps are 2**-3 of a number's power of two, but never below those of 2**-6. A number 2**20
    # times the power has that step as its last place: their sum is rounded, and ends in the count
    # of steps, 8 to 16, or below 2**-6 0 to 8. The code is that count and 8 for each power from
    # 2**-6 on, whose exponent's field is 121: 0x38 takes 8 * 121 off, in a byte.
    power = most_of(magnitude & 0x7F800000, splat(121 << 23))
    steps = as_bits(as_reals(magnitude) + as_reals(power + (20 << 23 | 0x38)))
    code = steps + (power >> 20)
    code = choose(whole > splat(0x7F800000), splat(0x7F), code)
    return code & 0x7F | bits >> 24 & 0x80


@inline
def e4m3_lanes(numbers: Floats) -> Any:
    """`e4m3_bytes` as int32."""
    return e4m3_bytes(numbers) & 0xFF


@inline
def e4m3_reals(codes: Ints) -> Any:
    """The numbers of E4M3 codes without a sign, int32 lanes; NaN for 0x7F."""
    # Exponents are 120 apart; subnormals count 2**-9.
    normal = as_reals((codes << 20) + (120 << 23))
    found = choose(codes < splat(8), reals(codes) * np.float32(2.0**-9), normal)
    return choose(codes == splat(0x7F), splat(_NAN), found)


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
    """The greatest magnitudes, as bits, of lanes of a range of numbers and of `most`."""
    rest = span[1] - (span[1] - span[0]) % 16
    for i in range(span[0], rest, 16):
        bring(values, i + ahead)
        most = most_of(as_bits(lanes(values, i)) & 0x7FFFFFFF, most)
    if rest < span[1]:
        most = most_of(as_bits(some(values, rest, span[1], room)) & 0x7FFFFFFF, most)
    return most


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
        if ours:
            found = choose(found == zero, splat(least), found)
        else:  # DeepSeek's: a block of zeros has the scale 1
            found = choose(greatest == zero, one, found)
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
        rest, short = span[1] - (span[1] - span[0]) % 16, values.itemsize == 2
        for i in range(span[0], rest, 16):
            bring(values, i + ahead)
            put_bytes(out, i, code(lanes(values, i), by[0], by[1], short))
        # What is left goes through `some`, zeros in the other lanes.
        if rest < span[1]:
            numbers = some(values, rest, span[1], room)
            put_some(out, rest, span[1], code(numbers, by[0], by[1], short), codes)

    code = inline(code)
    return forced(fill)


@variants
def blocks(style: str, kind: int) -> Any:
    """`(values, columns, size, least, scales, out)`: scales of blocks, then codes.

    `values` and `out` are flat, rows of `columns`; `size` is the rows and columns of a block, and
    `scales`, float32 `[lines, blocks]`, are filled. compressed-tensors computes in `kind`, and has
    `least` for a scale of 0.
    """
    scales_of, fill = _scales_of(style, kind), _fill(style, kind)

    def run(
        values: Array,
        columns: int,
        size: tuple[int, int],
        least: float,
        scales: Array,
        out: Bytes,
    ) -> None:
        tile, room = local(_tile(), (16, 16), np.int32), local(_room(), 16, np.float32)
        dividers, factors = local(_scales(), 16, np.float32), local(_factors(), 16, np.float32)
        every, (rows, width), wide = values.shape[0], size, scales.shape[1]
        # Sixteen blocks of a row, then the same of the next row.
        ahead = columns if rows > 1 else READ_AHEAD
        for line in range(scales.shape[0]):
            top, bottom = line * rows * columns, min((line + 1) * rows * columns, every)
            for first in range(0, wide, 16):
                last = min(first + 16, wide)
                for k in range(16):
                    put_lanes(tile, 16 * k, splat(0))
                for row in range(top, bottom, columns):
                    for g in range(first, last):
                        at, end = row + g * width, row + min(columns, (g + 1) * width)
                        most = lanes(tile, 16 * (g - first))
                        most = _greatest(values, (at, end), ahead, most, room)
                        put_lanes(tile, 16 * (g - first), most)
                found, by = scales_of(as_reals(greatest_of(tile)), np.float32(least))
                put_lanes(dividers, 0, found)
                put_lanes(factors, 0, by)
                for g in range(first, last):
                    scales[line, g] = dividers[g - first]
                for row in range(top, bottom, columns):
                    for g in range(first, last):
                        span = row + g * width, row + min(columns, (g + 1) * width)
                        fill(values, span, ahead, (dividers[g - first], factors[g - first]), out)

    return run
