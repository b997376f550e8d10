"""Bodies of `kernels/gguf_ik_trellis.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import inline, jit, put
from anamnesis.kernels.bodies._vector import load_u16
from anamnesis.kernels.bodies.gguf_ik import load_float
from anamnesis.kernels.types import Array, Bytes, Floats, Integer

_i64 = np.int64
_STEP = 0xCBAC1FED
_OFFSET, _FAR = 4096, 32768


@inline
def _next(x: Integer) -> Any:
    return _i64(x * _i64(_STEP)) & _i64(0xFFFFFFFF)


@inline
# Bits 0-5, 8-13, 16-21 and 24-29 of the state, a field of six bits a byte.
def _sum(x: int) -> Any:
    fields = x & _i64(0x3F3F3F3F)
    total = (fields & 63) + (fields >> 8 & 63) + (fields >> 16 & 63) + (fields >> 24)
    return np.float32(total - 126)


@jit
def iq1_kt(rows: Bytes, values: Floats, out: Array) -> None:
    """IQ1_KT: d f32 a row; scales u8[8], ql u8[32], qh u8[16] a block; a state gives 8 numbers."""
    blocks = rows.shape[1] // 56
    for row in range(rows.shape[0]):
        data = rows[row]
        d = load_float(data, 0)
        for block in range(blocks):
            at, to = 4 + 56 * block, 256 * (row * blocks + block)
            for run in range(8):
                # A byte a run: bits 0-3 a scale, bit 4 + g bit 12 of the state of group g.
                number = _i64(data[at + run])
                scale = np.float32(d * values[number & 15])
                for group in range(4):
                    # Eight bits of state in ql, four in qh, bit 12 in the upper half of a scale.
                    high = _i64(data[at + 40 + 4 * (run % 4) + group]) << 8 - 4 * (run // 4)
                    x = _i64(data[at + 8 + 4 * run + group]) | high & 0xF00
                    x = (x | number << 8 - group & 0x1000) + _OFFSET
                    for j in range(8):
                        x = _next(x)
                        put(out, to + 32 * run + 8 * group + j, scale * _sum(x))


@jit
def iq2_kt(rows: Bytes, values: Floats, out: Array) -> None:
    """IQ2_KT: d f32 a row; scales u8[4], ql u16[32] a block; a state gives 8 numbers."""
    blocks = rows.shape[1] // 68
    for row in range(rows.shape[0]):
        data = rows[row]
        d = load_float(data, 0)
        for block in range(blocks):
            at, to = 4 + 68 * block, 256 * (row * blocks + block)
            for run in range(8):
                # scales: run k in the low half of byte k, run 4 + k in the high half.
                number = _i64(data[at + run % 4]) >> 4 * (run // 4) & 15
                scale = np.float32(d * values[number])
                for group in range(4):
                    x = _i64(load_u16(data, at + 4 + 2 * (4 * run + group))) + _OFFSET
                    for j in range(8):
                        x = _next(x)
                        put(out, to + 32 * run + 8 * group + j, scale * _sum(x))


@jit
def iq3_kt(rows: Bytes, values: Floats, out: Array) -> None:
    """IQ3_KT: d f32 a row; scales u8[4], ql u16[32], qh u8[32] a block; qh has the signs."""
    blocks = rows.shape[1] // 100
    for row in range(rows.shape[0]):
        data = rows[row]
        d = load_float(data, 0)
        for block in range(blocks):
            at, to = 4 + 100 * block, 256 * (row * blocks + block)
            for run in range(8):
                # scales as in IQ2_KT, of 0 to 15 themselves.
                number = _i64(data[at + run % 4]) >> 4 * (run // 4) & 15
                scale = np.float32(d * np.float32(number))
                for group in range(4):
                    x = _i64(load_u16(data, at + 4 + 2 * (4 * run + group))) + _OFFSET
                    for j in range(8):
                        x = _next(x)
                        value = scale * abs(_sum(x))
                        # qh: bit k of byte l is the sign of element 32 k + l.
                        if _i64(data[at + 68 + 8 * group + j]) >> run & 1:
                            value = -value
                        put(out, to + 32 * run + 8 * group + j, value)


@jit
def iq4_kt(rows: Bytes, values: Floats, out: Array) -> None:
    """IQ4_KT: d f32 a row; u32[8], ql u8[64], qh u8[32] a block; a state gives 4."""
    blocks = rows.shape[1] // 128
    for row in range(rows.shape[0]):
        data = rows[row]
        d = load_float(data, 0)
        for block in range(blocks):
            at, to = 4 + 128 * block, 256 * (row * blocks + block)
            for run in range(8):
                low, high = load_u16(data, at + 4 * run), load_u16(data, at + 4 * run + 2)
                word = _i64(low) | _i64(high) << 16
                # A word: a bit of offset, seven of scale, and three of state for each of 8 groups.
                scale = np.float32(d * np.float32((word & 255) // 2 - 64))
                offset = _OFFSET + _FAR * (word & 1)
                for group in range(8):
                    index = 8 * run + group
                    # ql: bits 0-7 of a state; qh: bits 8-11, group i in the low half of byte i, 32
                    # + i in the high half.
                    nibble = _i64(data[at + 96 + index % 32]) << 8 - 4 * (index // 32) & 0xF00
                    x = _i64(data[at + 32 + index]) | nibble | (word >> 8 + 3 * group & 7) << 12
                    x += offset
                    for j in range(4):
                        x = _next(x)
                        put(out, to + 32 * run + 4 * group + j, scale * _sum(x))
