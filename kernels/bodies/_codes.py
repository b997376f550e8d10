"""Bodies of `kernels/_codes.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import as_f32, as_u32, forced, inline, jit, variants
from anamnesis.kernels.bodies._streams import STEP, UNPACK
from anamnesis.kernels.bodies._vector import clean_nan
from anamnesis.kernels.bodies.bits import f16_bits_to_f32, u32
from anamnesis.kernels.types import Array

_u16, _u64 = np.uint16, np.uint64


@variants
def spread(bits: int) -> Any:
    """`(stream, codes)`: the codes of a stream, uint8, as bytes; room is for a multiple of 8."""
    if bits == 4:

        def to_bytes(stream: Array, codes: Array) -> None:
            pairs = codes.view(np.uint16)
            for i in range(stream.shape[0]):
                byte = _u16(stream[i])
                pairs[i] = _u16(_u16(byte | _u16(byte << _u16(4))) & _u16(0x0F0F))

    elif bits == 2:

        def to_bytes(stream: Array, codes: Array) -> None:
            fours = codes.view(np.uint32)
            for i in range(stream.shape[0]):
                wide = u32(stream[i])
                wide = u32(wide | u32(wide << u32(12)))
                fours[i] = u32(u32(wide | u32(wide << u32(6))) & u32(0x03030303))

    elif bits == 8:

        def to_bytes(stream: Array, codes: Array) -> None:
            for i in range(stream.shape[0]):
                codes[i] = stream[i]

    else:
        unpack = UNPACK[bits]

        def to_bytes(stream: Array, codes: Array) -> None:
            size = stream.shape[0]
            steps = size // (4 * bits)
            for i in range(steps):
                unpack(stream, 4 * bits * i, codes, STEP * i)
            eights = codes.view(np.uint64)
            for i in range(steps * 4, -(-size // bits)):
                value = _u64(0)
                for j in range(i * bits, min(size, i * bits + bits)):
                    value |= _u64(stream[j]) << _u64(8 * (j - i * bits))
                eights[i] = _eight(value, bits)

    return to_bytes


@inline
def _eight(value: Any, bits: Any) -> Any:
    """Eight codes in the low bits of a uint64, a byte each: part halves until they are codes."""
    b, one = _u64(bits), _u64(1)
    four = _u64((one << _u64(4) * b) - one)
    two = _u64((one << _u64(2) * b) - one) * _u64(0x0000000100000001)
    low = _u64((one << b) - one) * _u64(0x0001000100010001)
    value = (value & four) | ((value >> (_u64(4) * b)) & four) << _u64(32)
    value = (value & two) | ((value >> (_u64(2) * b)) & two) << _u64(16)
    return (value & low) | ((value >> b) & low) << _u64(8)


@forced
def read_line(numbers: Any, row: Any, line: Array) -> None:
    """A row of numbers as float32: `numbers` are their bits and whether these are binary16.

    Where there is one line for all rows it is read with the first.
    """
    raw, half = numbers
    if row == 0 or raw.shape[0] > 1:
        widen(raw[row, : line.shape[0]], half, line)


@variants
def spread_padded(bits: int) -> Any:
    """`(stream, codes)`: codes of words that hold `32 // bits` of 3, 5, 6 or 7 bits, as bytes.

    `codes` has room for all codes of all words.
    """
    each, mask = 32 // bits, u32((1 << bits) - 1)
    if bits == 7:

        def to_bytes(stream: Array, codes: Array) -> None:
            words, fours = stream.view(np.uint32), codes.view(np.uint32)
            for i in range(words.shape[0]):
                w = u32(words[i])
                low = u32(u32(w & u32(0x7F)) | u32(u32(w << u32(1)) & u32(0x7F00)))
                high = u32(
                    u32(u32(w << u32(2)) & u32(0x7F0000)) | u32(u32(w << u32(3)) & u32(0x7F000000))
                )
                fours[i] = u32(low | high)

    else:

        def to_bytes(stream: Array, codes: Array) -> None:
            words = stream.view(np.uint32)
            for i in range(words.shape[0]):
                for k in range(each):
                    codes[each * i + k] = u32(u32(words[i] >> u32(bits * k)) & mask)

    return to_bytes


@forced
def widen(raw: Array, half: Any, scales: Array) -> None:
    """Bits of BF16, of binary16 if `half`, or of float32, as float32; NaNs made quiet."""
    if half:
        for i in range(raw.shape[0]):
            scales[i] = clean_nan(f16_bits_to_f32(raw[i]))
    else:
        shift = u32(32 - 8 * raw.itemsize)
        for i in range(raw.shape[0]):
            scales[i] = clean_nan(as_f32(u32(u32(raw[i]) << shift)))


@variants
def zero_points(bits: int, order: str) -> Any:
    """`(columns, offset, carry, codes, zeros)`: see `read_zeros`; `codes` has room for a row's."""
    to_bytes, mask = spread(bits), np.int32((1 << bits) - 1)
    if order == "nibbles":

        def fields(codes: Array, offset: int, carry: int, zeros: Array) -> None:
            for first in range(0, zeros.shape[0], 8):
                for k in range(8):
                    zeros[first + k] = codes[first + k // 2 + k % 2 * 4]

    elif order == "carry":

        def fields(codes: Array, offset: int, carry: int, zeros: Array) -> None:
            over = 0
            for row in range(zeros.shape[0]):
                field = np.int64(codes[row]) + offset + (over if row % carry else 0)
                over = 1 if field > mask else 0
                zeros[row] = field & mask

    else:

        def fields(codes: Array, offset: int, carry: int, zeros: Array) -> None:
            add = np.int32(offset)
            for row in range(zeros.shape[0]):
                zeros[row] = np.float32(np.int32(np.int32(np.int32(codes[row]) + add) & mask))

    write = jit(fields)

    def unpack(columns: Array, offset: int, carry: int, codes: Any, zeros: Array) -> None:
        for group in range(zeros.shape[0]):
            to_bytes(columns[group], codes)
            write(codes, offset, carry, zeros[group])

    return unpack


@jit
def unpack_zeros(words: Array, bits: int, padded: Any, place: Any, zeros: Array) -> None:
    """Codes packed in columns of 32-bit words `[words, groups]`, as float32 `[rows, groups]`.

    A stream runs down each column; `padded` words hold whole codes only. `place` is the first row,
    how many rows each column of words is for, and how many words it has.
    """
    first, per, high = place
    groups = zeros.shape[1]
    mask = u32((1 << bits) - 1)
    for i in range(zeros.shape[0]):
        matrix, row = (first + i) // per, (first + i) % per
        word, begin = (
            (row // (32 // bits), row % (32 // bits) * bits)
            if padded
            else (row * bits // 32, row * bits % 32)
        )
        at, shift = (matrix * high + word) * groups, u32(begin)
        if begin + bits <= 32:
            for g in range(groups):
                zeros[i, g] = np.float32(np.int32(u32(u32(words[at + g] >> shift) & mask)))
        else:
            rest = u32(32 - begin)
            for g in range(groups):
                both = u32(u32(words[at + g] >> shift) | u32(words[at + groups + g] << rest))
                zeros[i, g] = np.float32(np.int32(u32(both & mask)))


@inline
def to_half(value: Any) -> Any:
    """float32 rounded to binary16 and back: nearest, ties to even; NaNs stay."""
    bits = as_u32(value)
    magnitude = u32(bits & u32(0x7FFFFFFF))
    odd = u32(u32(magnitude >> u32(13)) & u32(1))
    rounded = u32(u32(u32(magnitude + u32(0xFFF)) + odd) & u32(0xFFFFE000))
    if rounded >= u32(0x47800000):  # 65536: past the largest
        rounded = u32(0x7F800000)
    if magnitude < u32(0x38800000):  # subnormal: multiples of 2**-24, the last place of 0.5
        rounded = as_u32((as_f32(magnitude) + np.float32(0.5)) - np.float32(0.5))
    if magnitude > u32(0x7F800000):
        rounded = magnitude
    return as_f32(u32(rounded | u32(bits & u32(0x80000000))))
