"""Bodies of `kernels/_codes.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import as_f32, as_u32, forced, inline, jit, variants
from anamnesis.kernels.bodies._streams import STEP, UNPACK
from anamnesis.kernels.bodies._vector import clean_nan
from anamnesis.kernels.bodies.bits import f16_bits_to_f32, u32
from anamnesis.kernels.types import Array, Bytes, Floats, Integer, Real

_u16, _u64 = np.uint16, np.uint64


@variants
def spread(bits: int) -> Any:
    """`(stream, codes)`: the codes of a stream, uint8, as bytes; room is for a multiple of 8."""
    if bits == 4:

        def to_bytes(stream: Bytes, codes: Bytes) -> None:
            pairs = codes.view(np.uint16)
            for i in range(stream.shape[0]):
                # Code 2 i is bits 0-3 of byte i, code 2 i + 1 bits 4-7: 0x00hl becomes 0x0h0l.
                byte = _u16(stream[i])
                pairs[i] = _u16(_u16(byte | _u16(byte << _u16(4))) & _u16(0x0F0F))

    elif bits == 2:

        def to_bytes(stream: Bytes, codes: Bytes) -> None:
            fours = codes.view(np.uint32)
            for i in range(stream.shape[0]):
                # Code 4 i + k is bits 2 k, 2 k + 1 of byte i: halves go 16 bits apart, then
                # quarters 8.
                wide = u32(stream[i])
                wide = u32(wide | u32(wide << u32(12)))
                fours[i] = u32(u32(wide | u32(wide << u32(6))) & u32(0x03030303))

    elif bits == 8:

        def to_bytes(stream: Bytes, codes: Bytes) -> None:
            for i in range(stream.shape[0]):
                codes[i] = stream[i]

    else:
        # 32 codes are `4 * bits` bytes: vectors do those, and what is left goes eight codes, `bits`
        # bytes, at a time.
        unpack = UNPACK[bits]

        def to_bytes(stream: Bytes, codes: Bytes) -> None:
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
def _eight(value: Integer, bits: int) -> Any:
    """Eight codes in the low bits of a uint64, a byte each: part halves until they are codes."""
    b, one = _u64(bits), _u64(1)
    # Masks of four, two and one codes from the lowest bit of 64, 32 and 16 bits on.
    four = _u64((one << _u64(4) * b) - one)
    two = _u64((one << _u64(2) * b) - one) * _u64(0x0000000100000001)
    low = _u64((one << b) - one) * _u64(0x0001000100010001)
    value = (value & four) | ((value >> (_u64(4) * b)) & four) << _u64(32)
    value = (value & two) | ((value >> (_u64(2) * b)) & two) << _u64(16)
    return (value & low) | ((value >> b) & low) << _u64(8)


@forced
def read_line(numbers: tuple[Array, bool], row: int, line: Floats) -> None:
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

        def to_bytes(stream: Bytes, codes: Bytes) -> None:
            words, fours = stream.view(np.uint32), codes.view(np.uint32)
            for i in range(words.shape[0]):
                # Bits 7 k to 7 k + 6 of a word are code k; bits 28-31 are padding. Code k moves k
                # bits up.
                w = u32(words[i])
                low = u32(u32(w & u32(0x7F)) | u32(u32(w << u32(1)) & u32(0x7F00)))
                high = u32(
                    u32(u32(w << u32(2)) & u32(0x7F0000)) | u32(u32(w << u32(3)) & u32(0x7F000000))
                )
                fours[i] = u32(low | high)

    else:

        def to_bytes(stream: Bytes, codes: Bytes) -> None:
            words = stream.view(np.uint32)
            for i in range(words.shape[0]):
                for k in range(each):
                    # Bits `bits * k` and up of a word are code k; those above the last are padding.
                    codes[each * i + k] = u32(u32(words[i] >> u32(bits * k)) & mask)

    return to_bytes


@forced
def widen(raw: Array, half: bool, scales: Floats) -> None:
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

        def fields(codes: Bytes, offset: int, carry: int, zeros: Floats) -> None:
            for first in range(0, zeros.shape[0], 8):
                for k in range(8):
                    # AWQ packs 0, 2, 4, 6, 1, 3, 5, 7 from the lowest bits on: number k is field
                    # k / 2, or 4 + k / 2 if it is odd.
                    zeros[first + k] = codes[first + k // 2 + k % 2 * 4]

    elif order == "carry":

        def fields(codes: Bytes, offset: int, carry: int, zeros: Floats) -> None:
            over = 0
            for row in range(zeros.shape[0]):
                # A GPTQ zero is stored less 1; libraries add it to the word, whose carry spills
                # into the next field.
                field = np.int64(codes[row]) + offset + (over if row % carry else 0)
                over = 1 if field > mask else 0
                zeros[row] = field & mask

    else:

        def fields(codes: Bytes, offset: int, carry: int, zeros: Floats) -> None:
            add = np.int32(offset)
            for row in range(zeros.shape[0]):
                zeros[row] = np.float32(np.int32(np.int32(np.int32(codes[row]) + add) & mask))

    write = jit(fields)

    def unpack(columns: Bytes, offset: int, carry: int, codes: Bytes, zeros: Floats) -> None:
        for group in range(zeros.shape[0]):
            to_bytes(columns[group], codes)
            write(codes, offset, carry, zeros[group])

    return unpack


@jit
def unpack_zeros(
    words: Array, bits: int, padded: bool, place: tuple[int, ...], zeros: Floats
) -> None:
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
            # A code across two words: its low bits end the first, its high bits begin the second.
            rest = u32(32 - begin)
            for g in range(groups):
                both = u32(u32(words[at + g] >> shift) | u32(words[at + groups + g] << rest))
                zeros[i, g] = np.float32(np.int32(u32(both & mask)))


@inline
def to_half(value: Real) -> Any:
    """float32 rounded to binary16 and back: nearest, ties to even; NaNs stay."""
    bits = as_u32(value)
    magnitude = u32(bits & u32(0x7FFFFFFF))
    # 23 bits of mantissa to 10: round away 13, ties to the even last place.
    odd = u32(u32(magnitude >> u32(13)) & u32(1))
    rounded = u32(u32(u32(magnitude + u32(0xFFF)) + odd) & u32(0xFFFFE000))
    if rounded >= u32(0x47800000):  # 65536: past the largest
        rounded = u32(0x7F800000)
    if magnitude < u32(0x38800000):  # subnormal: multiples of 2**-24, the last place of 0.5
        rounded = as_u32((as_f32(magnitude) + np.float32(0.5)) - np.float32(0.5))
    if magnitude > u32(0x7F800000):
        rounded = magnitude
    return as_f32(u32(rounded | u32(bits & u32(0x80000000))))
