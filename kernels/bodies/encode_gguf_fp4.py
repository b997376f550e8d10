"""Bodies of `kernels/encode_gguf_fp4.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._extremes import greatest_lanes
from anamnesis.kernels.bodies._ggml_lanes import sizes_of
from anamnesis.kernels.bodies._half_lanes import above, halves, lower, put_nibbles, upper
from anamnesis.kernels.bodies._jit import as_f32, inline, jit, local, stack
from anamnesis.kernels.bodies._lane_memory import (
    READ_AHEAD,
    bring,
    is_bf16,
    lanes,
    put_bytes,
    put_halves,
    put_lanes,
)
from anamnesis.kernels.bodies._lanes import (
    as_bits,
    as_reals,
    choose,
    least_of,
    most_of,
    reals,
    size_of,
    splat,
    wholes,
    word,
)
from anamnesis.kernels.bodies.bits import u32
from anamnesis.kernels.types import Array, Bytes, Floats, Integer, Ints

_f32 = np.float32
_NUMBERS = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
_MIDDLES = np.array([0.5, 1.5, 2.5, 3.5, 5, 7, 10], np.float32)
_FAR = np.float32(2.0**20)  # of a scale; from some 2**24 on distances are alike
_LAST = np.float32(2.0**125)  # 8 times which is infinite
_EVERY, _NAN = 0xFFFF, np.float32(np.nan)
_tile, _scales, _codes, _room = stack(1024), stack(64), stack(64), stack(64)


@inline
def _nearest(numbers: Floats, scale: np.float32) -> Any:
    """The first codes whose numbers, times the halved scale, are nearest: int32 lanes."""
    best, least = splat(0), size_of(splat(_f32(_NUMBERS[0] * scale)) - numbers)
    for k in range(1, 16):
        error = size_of(splat(_f32(_NUMBERS[k] * scale)) - numbers)
        best, least = choose(error < least, splat(k), best), least_of(error, least)
    return best


@inline
def _codes_of(numbers: Floats, scale: np.float32) -> Any:
    """The same by the middles between numbers, which are exact, as distances near them are.

    The lower magnitude comes first, and 0 before -0. Numbers that are infinite are nearest to none.
    """
    size, code = size_of(numbers), splat(0)
    if scale >= _LAST or word(size < splat(_f32(_FAR * scale))) != _EVERY:
        return _nearest(numbers, scale)
    for k in range(7):
        code = choose(size > splat(_f32(_MIDDLES[k] * scale)), splat(k + 1), code)
    return _signed(code, numbers)


@inline
def _codes_by(numbers: Floats, scale: np.float32, inverse: np.float32, below: int) -> Any:
    """The same by products with `inverse`, that of the scale, or NaN.

    A product is off by less than `below` of its last places, and nearer than that to a middle
    where it is the middle's: then the lower magnitude is what is left when they are taken off.
    """
    size = size_of(numbers) * inverse
    if word(size < splat(_FAR)) != _EVERY:
        return _codes_of(numbers, scale)
    bits = as_bits(size) - below
    # From 1 on a code is the exponent's last bits and the first of the mantissa, which the highest
    # bit that goes is added to. Below there are two middles.
    code, left = (bits + 0x200000 >> 22) - (126 << 1), as_reals(bits)
    small = choose(left > splat(_f32(0.75)), splat(2), splat(1))
    small = choose(left > splat(_f32(0.25)), small, splat(0))
    return _signed(least_of(most_of(code, small), splat(7)), numbers)


@inline
def _signed(code: Ints, numbers: Floats) -> Any:
    """Codes of magnitudes with the signs of numbers, but for 0."""
    return choose(code == splat(0), code, code | as_bits(numbers) >> 28 & 8)


@inline
def _mx_block(values: Array, b: int, exponent: np.uint8, out: Bytes) -> None:
    """The exponent byte, then elements i and 16 + i as low and high half of byte i."""
    e = u32(exponent)
    # Half of 2 ** (e - 127), as `_NUMBERS` are doubled; below exponent 1 it is subnormal.
    bits = u32(0x00200000) << e if e < 2 else u32(u32(e - u32(1)) << u32(23))
    scale = as_f32(u32(bits))
    # 2 ** (127 - e), where both are normal, and so are all numbers: products with it are exact.
    inverse = as_f32(u32(u32(u32(254) - e) << u32(23))) if 1 <= e <= 252 else _NAN
    out[17 * b] = exponent
    low = _codes_by(lanes(values, 32 * b), scale, inverse, 1)
    high = _codes_by(lanes(values, 32 * b + 16), scale, inverse, 1)
    put_bytes(out, 17 * b + 1, low | high << 4)


@inline
def _mx_block_by_bits(values: Array, b: int, e: Integer, out: Bytes) -> None:
    """`_mx_block` of BF16 under an exponent from 3 on, with whose power of two every number that
    has a code is normal.
    """
    bits = halves(values, 32 * b)
    size, one = bits & 0x7FFF, (e - 1) << 7  # where 1 of `_NUMBERS` is
    # From 2 on the last bits of the exponent and the first of the mantissa, halves down.
    code = (size - (one - 31)) >> 6
    # Below there are two middles.
    some = lower(above(size, one - 128), 1)
    code = lower(upper(code, some + lower(above(size, one + 64), 1)), 7)
    put_nibbles(out, 17 * b + 1, code | (some << 3) & (bits >> 12))


@jit
def mxfp4(values: Array, exponents: Bytes, out: Bytes) -> None:
    """MXFP4 of float32, whose exponents are known."""
    for b in range(exponents.shape[0]):
        bring(values, 32 * b + READ_AHEAD)
        _mx_block(values, b, exponents[b], out)


@jit
def mxfp4_of_bf16(values: Array, exponents: Bytes, out: Bytes) -> None:
    """MXFP4 of BF16, `exponents` by the bits of a block's greatest magnitude, which is BF16."""
    tile, room = local(_tile(), (16, 16), np.int32), local(_codes(), 16, np.int32)
    every = values.shape[0] // 32
    for first in range(0, every, 16):
        count = min(16, every - first)
        put_lanes(room, 0, greatest_lanes(values, first, count, 32, tile))
        for k in range(count):
            b, exponent = first + k, exponents[room[k] >> 16]
            if exponent < 3:
                _mx_block(values, b, exponent, out)
                continue
            out[17 * b] = exponent
            _mx_block_by_bits(values, b, np.int64(exponent), out)


@inline
def _ue4m3(numbers: Floats) -> Any:
    """`ggml_fp32_to_ue4m3` of numbers that are not negative: int32 lanes."""
    bits = as_bits(least_of(numbers, splat(_f32(448))))
    # Four bits of exponent, less 7 where float32 has 127, over three of mantissa. The highest bit
    # that goes is added: halves up, not to even; from 256 on all is the greatest code.
    code = (bits + 0x80000 >> 20) - (120 << 3)
    code = choose(code < splat(15 << 3), code, splat(0x7E))
    # Subnormal: multiples of 2**-9, halves up.
    small = bits < splat(121 << 23)
    steps = choose(small, as_reals(bits), splat(_f32(0))) * _f32(512) + _f32(0.5)
    return choose(small, least_of(wholes(steps), splat(7)), code)


@inline
def _halves_of(codes: Ints) -> Any:
    """Half the numbers of UE4M3 codes, which are not 0x7F."""
    # 2 ** (exponent - 7), halved; subnormals count 2**-9.
    normal = as_reals((codes << 20) + (119 << 23))
    return choose(codes < splat(8), reals(codes) * _f32(2.0**-10), normal)


@jit
def nvfp4(values: Array, out: Bytes) -> None:
    """NVFP4: four E4M3 scales, then for each run of 16 eight bytes of elements i and 8 + i."""
    tile, scales = local(_tile(), (16, 16), _f32), local(_scales(), 16, _f32)
    codes, inverses = local(_codes(), 16, np.int32), local(_room(), 16, _f32)
    every = values.shape[0] // 16
    # Four blocks, of four runs each, together.
    for first in range(0, every, 16):
        count = min(16, every - first)
        found = _ue4m3(sizes_of(values, 16 * first, (count, 16), tile) / _f32(6))
        halves = _halves_of(found)
        put_lanes(codes, 0, found)
        put_lanes(scales, 0, halves)
        put_lanes(inverses, 0, splat(_f32(0.5)) / halves)
        for k in range(count):
            # Of block b of 36 bytes: byte s is the scale of run s.
            b, s = (first + k) // 4, (first + k) % 4
            out[36 * b + s] = np.uint8(codes[k])
            numbers = lanes(values, 16 * (first + k))
            if is_bf16(values):
                # Middles times scales, and BF16, have 8 bits: they are equal or 2**-8 apart.
                found = _codes_by(numbers, scales[k], inverses[k], 1024)
            else:
                found = _codes_of(numbers, scales[k])
            put_halves(out, 36 * b + 4 + 8 * s, found)
