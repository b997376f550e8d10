"""Bodies of `kernels/ct.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._codes import RUNS, spread, to_half
from anamnesis.kernels.bodies._ct_lines import (
    line_of,
    read_scale_line,
    read_zero_line,
    scale_scattered,
    spread_padded,
    unpack_zero_line,
)
from anamnesis.kernels.bodies._jit import as_f32, bf16_bits, jit, put, variants
from anamnesis.kernels.bodies._vector import load16, load32, signed, store, to_f32
from anamnesis.kernels.bodies.bits import u32
from anamnesis.kernels.ct import F32, FLOAT_ZEROS, INT8_ZEROS, NONE, PADDED, PLAIN

_STEP, _HALF_STEP = 32, 16


@jit
def _read_lines(
    scales: Any, zeros: Any, row: Any, zero_row: Any, kind: Any, place: Any, bits: Any,
    zero_kind: Any, zero_rows: Any, zero_words: Any, scale: Any, zero: Any,
) -> None:  # fmt: skip
    """Scales and zero points of a row of packed codes."""
    groups, middle = scale.shape[0], np.float32(1 << (bits - 1))
    read_scale_line(scales, kind, line_of(place, row), scale)
    if zero_kind == PLAIN:
        read_zero_line(zeros, line_of(place, row), zero)
        for g in range(groups):
            zero[g] += middle
    elif zero_kind == NONE:
        zero[:] = middle
    else:
        column = zeros[zero_row // zero_rows * zero_words * groups * 4 :]
        unpack_zero_line(column, bits, zero_kind == PADDED, zero_row % zero_rows, zero)


@variants
def packed(bits: int, padded: bool, way: str) -> Any:
    """Packed codes where columns of one group are a run; `way` is of `way_of`."""
    to_bytes, decode = (spread_padded if padded else spread)(bits), RUNS[way]

    def rows_of(
        payload: Any, scales: Any, zeros: Any, first: Any, first_zero: Any, kind: Any, place: Any,
        starts: Any, inputs: Any, row_bytes: Any, zero_kind: Any, zero_rows: Any,
        zero_words: Any, room: Any, out: Any,
    ) -> None:  # fmt: skip
        codes, scale, zero, _ = room
        runs = starts.shape[0] - 1
        for row in range(out.shape[0] // inputs):
            stream = payload[row * row_bytes : row * row_bytes + row_bytes]
            if bits != 8:
                to_bytes(stream, codes)
                stream = codes
            _read_lines(
                scales, zeros, first + row, first_zero + row, kind, place, bits,
                zero_kind, zero_rows, zero_words, scale, zero,
            )  # fmt: skip
            decode(stream, 0, starts, 0, runs, zero, scale, out, row * inputs)

    return rows_of


@variants
def packed_scattered(bits: int, padded: bool, half: bool) -> Any:
    """As `packed`, column i of group `index[i]`."""
    to_bytes = (spread_padded if padded else spread)(bits)

    def rows_of(
        payload: Any, scales: Any, zeros: Any, first: Any, first_zero: Any, kind: Any, place: Any,
        index: Any, inputs: Any, row_bytes: Any, zero_kind: Any, zero_rows: Any,
        zero_words: Any, room: Any, out: Any,
    ) -> None:  # fmt: skip
        codes, scale, zero, words = room
        narrow = kind != F32 and zero_kind != PLAIN
        for row in range(out.shape[0] // inputs):
            to_bytes(payload[row * row_bytes : row * row_bytes + row_bytes], codes)
            _read_lines(
                scales, zeros, first + row, first_zero + row, kind, place, bits,
                zero_kind, zero_rows, zero_words, scale, zero,
            )  # fmt: skip
            here = out[row * inputs : row * inputs + inputs]
            scale_scattered(codes, index, zero, scale, narrow, half, words, here)

    return rows_of


@jit
def int8(
    codes: Any, scales: Any, zeros: Any, asymmetric: Any, first: Any, kind: Any, place: Any,
    starts: Any, inputs: Any, half: Any, room: Any, out: Any,
) -> None:  # fmt: skip
    """Rows of int8 codes, column `[starts[k], starts[k + 1])` of group k."""
    _, scale, zero, _ = room
    zero[:] = 0
    for row in range(out.shape[0] // inputs):
        line, to = line_of(place, first + row), row * inputs
        read_scale_line(scales, kind, line, scale)
        if asymmetric == INT8_ZEROS:
            read_zero_line(zeros, line, zero)
        elif asymmetric:
            read_scale_line(zeros, asymmetric - FLOAT_ZEROS, line, zero)
        for k in range(starts.shape[0] - 1):
            s, z = scale[k], zero[k]
            begin, end = to + starts[k], to + starts[k + 1]
            if half or end - begin < _HALF_STEP:
                for i in range(begin, end):
                    value = (np.float32(np.int8(codes[i])) - z) * s
                    put(out, i, to_half(value) if half else value)
            elif end - begin < _STEP:
                for at in (begin, end - _HALF_STEP):
                    store(out, at, (to_f32(signed(load16(codes, at))) - z) * s)
            else:
                for at in range(begin, end, _STEP):
                    at = min(at, end - _STEP)  # the last step goes over some elements again
                    store(out, at, (to_f32(signed(load32(codes, at))) - z) * s)


@jit
def int8_scattered(
    codes: Any, scales: Any, zeros: Any, asymmetric: Any, first: Any, kind: Any, place: Any,
    index: Any, inputs: Any, half: Any, room: Any, out: Any,
) -> None:  # fmt: skip
    """As `int8`, column i of group `index[i]`: codes and zero points are made unsigned."""
    unsigned, scale, zero, words = room
    groups = zero.shape[0]
    zero[:] = 0
    for row in range(out.shape[0] // inputs):
        line, to = line_of(place, first + row), row * inputs
        read_scale_line(scales, kind, line, scale)
        if asymmetric == INT8_ZEROS:
            read_zero_line(zeros, line, zero)
        elif asymmetric:
            read_scale_line(zeros, asymmetric - FLOAT_ZEROS, line, zero)
        for g in range(groups):
            zero[g] += np.float32(0x80)
        for i in range(inputs):
            unsigned[i] = codes[to + i] ^ np.uint8(0x80)
        here = out[to : to + inputs]
        narrow = kind != F32 and asymmetric <= INT8_ZEROS
        scale_scattered(unsigned, index, zero, scale, narrow, half, words, here)
        if not asymmetric:
            zero[:] = 0


@jit
def narrow_codes(out: Any) -> None:
    """float32 rounded to BF16 and back."""
    for i in range(out.shape[0]):
        out[i] = as_f32(u32(u32(bf16_bits(out[i])) << u32(16)))
