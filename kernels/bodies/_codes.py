"""Bodies of `kernels/_codes.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import as_f32, as_u32, inline, jit, put, variants
from anamnesis.kernels.bodies._lookup import look_up, table_for
from anamnesis.kernels.bodies._streams import STEP, UNPACK
from anamnesis.kernels.bodies._vector import clean_nan, load16, load32, store, to_f32
from anamnesis.kernels.bodies.bits import f16_bits_to_f32, u32

COUNT = np.arange(16, dtype=np.uint8)
_u16, _u64 = np.uint16, np.uint64


@variants
def spread(bits: int) -> Any:
    """`(stream, codes)`: the codes of a stream, uint8, as bytes; room is for a multiple of 8."""
    if bits == 4:

        def to_bytes(stream: Any, codes: Any) -> None:
            pairs = codes.view(np.uint16)
            for i in range(stream.shape[0]):
                byte = _u16(stream[i])
                pairs[i] = _u16(_u16(byte | _u16(byte << _u16(4))) & _u16(0x0F0F))

    elif bits == 2:

        def to_bytes(stream: Any, codes: Any) -> None:
            fours = codes.view(np.uint32)
            for i in range(stream.shape[0]):
                wide = u32(stream[i])
                wide = u32(wide | u32(wide << u32(12)))
                fours[i] = u32(u32(wide | u32(wide << u32(6))) & u32(0x03030303))

    elif bits == 8:

        def to_bytes(stream: Any, codes: Any) -> None:
            for i in range(stream.shape[0]):
                codes[i] = stream[i]

    else:
        unpack = UNPACK[bits]

        def to_bytes(stream: Any, codes: Any) -> None:
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


@jit
def widen(raw: Any, half: Any, scales: Any) -> None:
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

        def fields(codes: Any, offset: Any, carry: Any, zeros: Any) -> None:
            for first in range(0, zeros.shape[0], 8):
                for k in range(8):
                    zeros[first + k] = codes[first + k // 2 + k % 2 * 4]

    elif order == "carry":

        def fields(codes: Any, offset: Any, carry: Any, zeros: Any) -> None:
            over = 0
            for row in range(zeros.shape[0]):
                field = np.int64(codes[row]) + offset + (over if row % carry else 0)
                over = 1 if field > mask else 0
                zeros[row] = field & mask

    else:

        def fields(codes: Any, offset: Any, carry: Any, zeros: Any) -> None:
            add = np.int32(offset)
            for row in range(zeros.shape[0]):
                zeros[row] = np.float32(np.int32(np.int32(np.int32(codes[row]) + add) & mask))

    write = jit(fields)

    def unpack(columns: Any, offset: Any, carry: Any, codes: Any, zeros: Any) -> None:
        for group in range(zeros.shape[0]):
            to_bytes(columns[group], codes)
            write(codes, offset, carry, zeros[group])

    return unpack


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


# Runs are given by offsets: a slice of an array, or a call, costs more than sixteen elements.
@jit
def look_up_runs(
    codes: Any,
    first: Any,
    starts: Any,
    run: Any,
    end: Any,
    zeros: Any,
    scales: Any,
    out: Any,
    row: Any,
) -> None:
    """As `scale_runs`, for codes below 16 in runs of multiples of 16: each product is looked up."""
    for k in range(run, end):
        table = table_for(out, (to_f32(load16(COUNT, 0)) - zeros[k]) * scales[k])
        at, to = starts[k] - first, row + starts[k]
        while at < starts[k + 1] - first:
            look_up(out, to, table, load16(codes, at))
            at += 16
            to += 16


@jit
def multiply_runs(
    codes: Any,
    first: Any,
    starts: Any,
    run: Any,
    end: Any,
    zeros: Any,
    scales: Any,
    out: Any,
    row: Any,
) -> None:
    """As `scale_runs`, in runs of multiples of 16."""
    for k in range(run, end):
        zero, scale = zeros[k], scales[k]
        at, to, stop = starts[k] - first, row + starts[k], starts[k + 1] - first
        while at + 32 <= stop:
            store(out, to, (to_f32(load32(codes, at)) - zero) * scale)
            at += 32
            to += 32
        if at < stop:
            store(out, to, (to_f32(load16(codes, at)) - zero) * scale)


@jit
def scale_runs(
    codes: Any,
    first: Any,
    starts: Any,
    run: Any,
    end: Any,
    zeros: Any,
    scales: Any,
    out: Any,
    row: Any,
) -> None:
    """Runs `[run, end)` of a row that begins at `out[row]`; run k has a zero and a scale.

    Run k is inputs `[starts[k], starts[k + 1])`, and `codes` are those from input `first` on.
    """
    for k in range(run, end):
        zero, scale = zeros[k], scales[k]
        some, here = codes[starts[k] - first : starts[k + 1] - first], out[row + starts[k] :]
        for i in range(some.shape[0]):
            put(here, i, (np.float32(some[i]) - zero) * scale)


@jit
def halve_runs(
    codes: Any,
    first: Any,
    starts: Any,
    run: Any,
    end: Any,
    zeros: Any,
    scales: Any,
    out: Any,
    row: Any,
) -> None:
    """As `scale_runs`, and values are rounded to binary16 first."""
    for k in range(run, end):
        zero, scale = zeros[k], scales[k]
        some, here = codes[starts[k] - first : starts[k + 1] - first], out[row + starts[k] :]
        for i in range(some.shape[0]):
            put(here, i, to_half((np.float32(some[i]) - zero) * scale))


RUNS = {"halve": halve_runs, "scale": scale_runs, "table": look_up_runs, "vector": multiply_runs}


@jit
def scale_each(codes: Any, zeros: Any, scales: Any, half: Any, out: Any) -> None:
    """One row, with a scale and a zero for every code."""
    if half:
        for i in range(codes.shape[0]):
            put(out, i, to_half((np.float32(codes[i]) - zeros[i]) * scales[i]))
    else:
        for i in range(codes.shape[0]):
            put(out, i, (np.float32(codes[i]) - zeros[i]) * scales[i])
