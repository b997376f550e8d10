"""Bodies of `kernels/encode_gguf_legacy.py`, which has the layout.

Sixteen blocks are encoded together: their ends are found first, a block a lane, and so are their
scales; then come the codes, 16 elements of a block side by side. Quotients are 32 at most, or
nothing that a code could be: where the inverse of a subnormal scale is infinite, these are 0, as
the low byte is of what x86 converts them to.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._ggml import put_half
from anamnesis.kernels.bodies._ggml_lanes import (
    away_lanes,
    half_lanes,
    held_lanes,
    inverse_of,
)
from anamnesis.kernels.bodies._jit import inline, jit, local, stack, variants
from anamnesis.kernels.bodies._lane_memory import lanes, number, put_bytes, put_lanes
from anamnesis.kernels.bodies._lanes import (
    choose,
    greatest_of,
    is_any,
    least_of,
    most_of,
    size_of,
    splat,
    wholes,
    word,
)
from anamnesis.kernels.types import Array, Bytes, Floats, Ints

_f32 = np.float32
_LARGEST = _f32(3.4028234663852886e38)

_over, _under = stack(1024), stack(1024)
_inverses, _halves, _leasts, _least_halves = stack(64), stack(64), stack(64), stack(64)


@inline
def _ends_of(
    values: Array, first: int, blocks: int, bound: np.float32, over: Floats, under: Floats
) -> Any:
    """The greatest of each of up to 16 blocks, a lane each, and the greatest of what is negated.

    Each is `bound` at least; a NaN is passed over.
    """
    for k in range(blocks):
        low, high = lanes(values, first + 32 * k), lanes(values, first + 32 * k + 16)
        put_lanes(over, 16 * k, most_of(high, most_of(low, splat(bound))))
        # 0 - x and not -x: the greatest of what is negated is one search.
        low, high = splat(_f32(0)) - low, splat(_f32(0)) - high
        put_lanes(under, 16 * k, most_of(high, most_of(low, splat(bound))))
    return greatest_of(over), greatest_of(under)


@jit
def q8_0(values: Array, out: Bytes) -> None:
    """Q8_0: `d` f16, then 32 int8 codes."""
    over, inverses = local(_over(), (16, 16), _f32), local(_inverses(), 16, _f32)
    halves, mosts = local(_halves(), 16, np.int32), local(_leasts(), 16, _f32)
    every = values.shape[0] // 32
    for b in range(0, every, 16):
        blocks, none = min(16, every - b), splat(0)
        for k in range(blocks):
            first = 32 * (b + k)
            low, high = size_of(lanes(values, first)), size_of(lanes(values, first + 16))
            put_lanes(over, 16 * k, most_of(low, high))
            # A number that is not itself: NaN.
            none = choose((low != low) | (high != high), splat(1), none)
        most = greatest_of(over)
        if is_any(none != splat(0)):
            put_lanes(mosts, 0, most)
            for k in range(blocks):
                mosts[k] = _most_after_nan(values, 32 * (b + k))
            most = lanes(mosts, 0)
        d = most / _f32(127)
        put_lanes(inverses, 0, inverse_of(d))
        put_lanes(halves, 0, half_lanes(d))
        for k in range(blocks):
            at, first = 34 * (b + k), 32 * (b + k)
            put_half(out, at, halves[k])
            put_bytes(out, at + 2, away_lanes(lanes(values, first) * inverses[k]))
            put_bytes(out, at + 18, away_lanes(lanes(values, first + 16) * inverses[k]))


@inline
def _most_after_nan(values: Array, first: int) -> Any:
    """The greatest magnitude of 32 elements; after a NaN it is sought anew, as in ggml."""
    most = _f32(0)
    for i in range(first, first + 32):
        size = abs(number(values, i))
        most = most if most > size else size
    return most


@inline
def put_codes(low: Ints, high: Ints, out: Bytes, at: int, head: int) -> None:
    """Halves of bytes from `head` on; under wider codes, fifth bits before them, of 32 elements."""
    # Byte i: element i in the low half, 16 + i in the high one.
    put_bytes(out, at + head, low & 15 | (high & 15) << 4)
    if head > 4:
        # Bit j of a little-endian word is bit 4 of element j.
        bits = word(low > splat(15)) | word(high > splat(15)) << 16
        for i in range(4):
            out[at + head - 4 + i] = np.uint8(bits >> (8 * i) & 0xFF)


@inline
def _first_of(values: Array, first: int, size: np.float32) -> Any:
    """The first of 32 elements with a magnitude."""
    for i in range(first, first + 32):
        if abs(number(values, i)) == size:
            return number(values, i)
    return _f32(0)


@variants
def around_zero(half: int) -> Any:
    """Q4_0 (`half` 8) and Q5_0 (16)."""
    nbytes = 18 if half == 8 else 22
    head = 2 if half == 8 else 6
    offset = _f32(half + 0.5)

    def code(numbers: Floats, inverse: np.float32) -> Any:
        # Towards zero of a number that is not negative: half the codes and a half are added.
        return least_of(wholes(held_lanes(numbers * inverse + offset)), splat(2 * half - 1))

    def run(values: Array, out: Bytes) -> None:
        over, under = local(_over(), (16, 16), _f32), local(_under(), (16, 16), _f32)
        inverses, signed = local(_inverses(), 16, _f32), local(_leasts(), 16, _f32)
        halves = local(_halves(), 16, np.int32)
        every, zero = values.shape[0] // 32, splat(_f32(0))
        for b in range(0, every, 16):
            blocks = min(16, every - b)
            most, least = _ends_of(values, 32 * b, blocks, _f32(0), over, under)
            put_lanes(signed, 0, choose(most > least, most, zero - least))
            both = (most == least) & (most > zero)
            if is_any(both):  # the first one counts
                put_lanes(inverses, 0, choose(both, most, zero))
                for k in range(blocks):
                    if inverses[k] > 0:
                        signed[k] = _first_of(values, 32 * (b + k), inverses[k])
            # Zeros alone have the end 0.
            d = choose(most == zero - least, zero, lanes(signed, 0)) / _f32(-half)
            put_lanes(inverses, 0, inverse_of(d))
            put_lanes(halves, 0, half_lanes(d))
            for k in range(blocks):
                at, first = nbytes * (b + k), 32 * (b + k)
                put_half(out, at, halves[k])
                low = code(lanes(values, first), inverses[k])
                put_codes(low, code(lanes(values, first + 16), inverses[k]), out, at, head)

    code = inline(code)
    return run


@variants
def above_least(most_code: int) -> Any:
    """Q4_1 (`most_code` 15) and Q5_1 (31)."""
    nbytes = 20 if most_code == 15 else 24
    head = 4 if most_code == 15 else 8

    def code(numbers: Floats, least: np.float32, inverse: np.float32) -> Any:
        # Half up, towards zero.
        found = wholes(held_lanes((numbers - least) * inverse + _f32(0.5)))
        return least_of(found, splat(most_code))

    def run(values: Array, out: Bytes) -> None:
        over, under = local(_over(), (16, 16), _f32), local(_under(), (16, 16), _f32)
        inverses, leasts = local(_inverses(), 16, _f32), local(_leasts(), 16, _f32)
        halves = local(_halves(), 16, np.int32)
        least_halves = local(_least_halves(), 16, np.int32)
        every, zero = values.shape[0] // 32, splat(_f32(0))
        for b in range(0, every, 16):
            blocks = min(16, every - b)
            most, least = _ends_of(values, 32 * b, blocks, -_LARGEST, over, under)
            least = zero - least
            put_lanes(leasts, 0, least)
            if is_any(least == zero):  # the first one's sign counts
                for k in range(blocks):
                    if leasts[k] == 0:
                        leasts[k] = _first_of(values, 32 * (b + k), _f32(0))
                least = lanes(leasts, 0)
            span = most - least
            d = choose(span == zero, zero, span) / _f32(most_code)
            put_lanes(inverses, 0, inverse_of(d))
            put_lanes(halves, 0, half_lanes(d))
            put_lanes(least_halves, 0, half_lanes(least))
            for k in range(blocks):
                at, first = nbytes * (b + k), 32 * (b + k)
                put_half(out, at, halves[k])
                put_half(out, at + 2, least_halves[k])
                low = code(lanes(values, first), leasts[k], inverses[k])
                high = code(lanes(values, first + 16), leasts[k], inverses[k])
                put_codes(low, high, out, at, head)

    code = inline(code)
    return run
