"""Bodies of `kernels/encode_gguf_bits.py`, which has the layout.

Of all but Q1_0 the scales of sixteen blocks are found together, a block a lane; then come the
codes, 16 elements of a block side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._ggml import half_bits, put_half
from anamnesis.kernels.bodies._ggml_lanes import away_lanes, half_lanes, inverse_of, sizes_of
from anamnesis.kernels.bodies._jit import inline, jit, local, stack
from anamnesis.kernels.bodies._lane_memory import (
    lanes,
    put_bytes,
    put_lanes,
)
from anamnesis.kernels.bodies._lanes import (
    choose,
    size_of,
    splat,
)
from anamnesis.kernels.bodies._lookup import load_u32
from anamnesis.kernels.types import Array, Bytes, Floats, Ints

_f32 = np.float32
_tile, _inverses, _halves, _codes = stack(1024), stack(64), stack(64), stack(64)


@inline
def _scales(
    values: Array, first: int, blocks: tuple[int, int], tile: Floats, halves: Ints, inverses: Floats
) -> None:
    """The greatest magnitudes of so many blocks of so many elements, as binary16, and inverses."""
    d = sizes_of(values, first, blocks, tile)
    put_lanes(halves, 0, half_lanes(d))
    put_lanes(inverses, 0, inverse_of(d))


@jit
def q1_0(values: Floats, out: Bytes) -> None:
    """Q1_0: the mean magnitude as `d` f16, then a bit for each of 128 elements, lowest first."""
    for b in range(values.shape[0] // 128):
        total = np.float32(0)
        for i in range(128 * b, 128 * b + 128):
            total = np.float32(total + abs(values[i]))
        put_half(out, 18 * b, half_bits(np.float32(total / np.float32(128))))
        for i in range(16):
            byte = 0
            for j in range(8):
                # Bit j of byte i is element 8 i + j; zeros count as positive.
                byte |= (1 if values[128 * b + 8 * i + j] >= 0 else 0) << j
            out[18 * b + 2 + i] = np.uint8(byte)


@jit
def q2_0(values: Array, out: Bytes) -> None:
    """Q2_0: `d` f16, then two bits for each of 64 elements, lowest first."""
    tile, inverses = local(_tile(), (16, 16), _f32), local(_inverses(), 16, _f32)
    halves, codes = local(_halves(), 16, np.int32), local(_codes(), 64, np.uint8)
    every = values.shape[0] // 64
    for b in range(0, every, 16):
        count = min(16, every - b)
        _scales(values, 64 * b, (count, 64), tile, halves, inverses)
        for k in range(count):
            at = 18 * (b + k)
            put_half(out, at, halves[k])
            for i in range(0, 64, 16):
                numbers = lanes(values, 64 * (b + k) + i) * inverses[k]
                # Of what no code is near the code is 0.
                code = choose(size_of(numbers) < splat(_f32(2)), away_lanes(numbers) + 1, splat(0))
                put_bytes(codes, i, code)
            for i in range(16):
                # Bits 2 j, 2 j + 1 of byte i are element 4 i + j, plus 1.
                four = load_u32(codes, 4 * i)
                out[at + 2 + i] = np.uint8((four | four >> 6 | four >> 12 | four >> 18) & 0xFF)


@inline
def _digits(values: Array, at: int, inverse: np.float32) -> Any:
    """The codes of sixteen ternary numbers, plus 1; 1 for what is no number."""
    return away_lanes(lanes(values, at) * inverse) + 1


@jit
def tq2_0(values: Array, out: Bytes) -> None:
    """TQ2_0: byte i of 32 holds elements i, 32 + i, 64 + i, 96 + i, lowest first; `d` f16 last."""
    tile, inverses = local(_tile(), (16, 16), _f32), local(_inverses(), 16, _f32)
    halves = local(_halves(), 16, np.int32)
    every = values.shape[0] // 256
    for b in range(0, every, 16):
        count = min(16, every - b)
        _scales(values, 256 * b, (count, 256), tile, halves, inverses)
        for k in range(count):
            at, d = 66 * (b + k), inverses[k]
            for half in range(2):
                for run in range(0, 32, 16):
                    first = 256 * (b + k) + 128 * half + run
                    # Bits 2 j, 2 j + 1 of byte l are element 32 j + l of this half, plus 1.
                    low = _digits(values, first, d) | _digits(values, first + 32, d) << 2
                    high = _digits(values, first + 64, d) | _digits(values, first + 96, d) << 2
                    put_bytes(out, at + 32 * half + run, low | high << 4)
            put_half(out, at + 64, halves[k])


@inline
def _fraction(number: Ints) -> Any:
    """Of five base-3 digits, a fraction of 243, one of 256, rounded up: `(256 n + 242) / 243`.

    So that digits come out by multiplying by 3.
    """
    # 2**18 / 243 is 1078.8; the product is below 2**22.
    return number + ((number * 13 + 242) * 1079 >> 18)


@jit
def tq1_0(values: Array, out: Bytes) -> None:
    """TQ1_0: bytes of five base-3 digits (32, then 16), four bytes of four; `d` f16 last."""
    tile, inverses = local(_tile(), (16, 16), _f32), local(_inverses(), 16, _f32)
    halves, digits = local(_halves(), 16, np.int32), local(_codes(), 16, np.int32)
    every = values.shape[0] // 256
    for b in range(0, every, 16):
        count = min(16, every - b)
        _scales(values, 256 * b, (count, 256), tile, halves, inverses)
        for k in range(count):
            at, d, start = 54 * (b + k), inverses[k], 256 * (b + k)
            for run in range(3):
                # Bytes 0 to 31 take elements 32 apart, bytes 32 to 47 those 16 apart.
                first, step = start + 16 * run, 32
                if run == 2:
                    first, step = start + 160, 16
                number = _digits(values, first, d)
                for j in range(1, 5):
                    number = number * 3 + _digits(values, first + step * j, d)
                put_bytes(out, at + 16 * run, _fraction(number))
            put_lanes(digits, 0, _digits(values, start + 240, d))
            for i in range(4):
                # Elements 4 apart, and a fifth digit of 0.
                four = (digits[i] * 3 + digits[4 + i]) * 9 + digits[8 + i] * 3 + digits[12 + i]
                out[at + 48 + i] = np.uint8((four * 768 + 242) // 243)
            put_half(out, at + 52, halves[k])
