"""ik_llama.cpp's trellis types: a number of 13 to 16 bits starts a generator of 4 or 8 elements.

| type | bytes, after a float32 a row | layout, in order |
|---|---|---|
| IQ1_KT | 56 | sh[8], ql[32], qh[16] |
| IQ2_KT | 68 | scales[4], ql u16[32] |
| IQ3_KT | 100 | scales[4], ql u16[32], qh[32] |
| IQ4_KT | 128 | shb u32[8], ql[64], qh[32] |

Blocks have 256 elements, runs have 32. With x the number plus 4096 (IQ4_KT: plus 36864 where bit 0
of its run's shb says so), each element has x := x * 0xCBAC1FED, modulo 2**32, and

    value = (d * scale) * (sum of the four bytes of x, six bits of each, less 126)

two float32 products; IQ3_KT takes the absolute value, and its sign from a bit of qh. Scales are
values of IQ4_K's first set (IQ1_KT, IQ2_KT), 0 to 15 (IQ3_KT), or bits 1 to 7 of shb less 64
(IQ4_KT). Source: https://github.com/ikawrakow/ik_llama.cpp ggml/src/iqk/iqk_quantize.cpp
(`QuantizerIQKT::set_values`, `dequantize_row_iq*_kt`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._jit import inline, jit, put
from anamnesis.kernels._vector import load_u16
from anamnesis.kernels.gguf_ik import IQ4, load_float, rows_of

_i64 = np.int64
_STEP = 0xCBAC1FED
_OFFSET, _FAR = 4096, 32768


@inline
def _next(x: Any) -> Any:
    return _i64(x * _i64(_STEP)) & _i64(0xFFFFFFFF)


@inline
def _sum(x: Any) -> Any:
    fields = x & _i64(0x3F3F3F3F)
    total = (fields & 63) + (fields >> 8 & 63) + (fields >> 16 & 63) + (fields >> 24)
    return np.float32(total - 126)


@jit
def _iq1_kt(rows: Any, values: Any, out: Any) -> None:
    blocks = rows.shape[1] // 56
    for row in range(rows.shape[0]):
        data = rows[row]
        d = load_float(data, 0)
        for block in range(blocks):
            at, to = 4 + 56 * block, 256 * (row * blocks + block)
            for run in range(8):
                number = _i64(data[at + run])
                scale = np.float32(d * values[number & 15])
                for group in range(4):
                    high = _i64(data[at + 40 + 4 * (run % 4) + group]) << 8 - 4 * (run // 4)
                    x = _i64(data[at + 8 + 4 * run + group]) | high & 0xF00
                    x = (x | number << 8 - group & 0x1000) + _OFFSET
                    for j in range(8):
                        x = _next(x)
                        put(out, to + 32 * run + 8 * group + j, scale * _sum(x))


@jit
def _iq2_kt(rows: Any, values: Any, out: Any) -> None:
    blocks = rows.shape[1] // 68
    for row in range(rows.shape[0]):
        data = rows[row]
        d = load_float(data, 0)
        for block in range(blocks):
            at, to = 4 + 68 * block, 256 * (row * blocks + block)
            for run in range(8):
                number = _i64(data[at + run % 4]) >> 4 * (run // 4) & 15
                scale = np.float32(d * values[number])
                for group in range(4):
                    x = _i64(load_u16(data, at + 4 + 2 * (4 * run + group))) + _OFFSET
                    for j in range(8):
                        x = _next(x)
                        put(out, to + 32 * run + 8 * group + j, scale * _sum(x))


@jit
def _iq3_kt(rows: Any, values: Any, out: Any) -> None:
    blocks = rows.shape[1] // 100
    for row in range(rows.shape[0]):
        data = rows[row]
        d = load_float(data, 0)
        for block in range(blocks):
            at, to = 4 + 100 * block, 256 * (row * blocks + block)
            for run in range(8):
                number = _i64(data[at + run % 4]) >> 4 * (run // 4) & 15
                scale = np.float32(d * np.float32(number))
                for group in range(4):
                    x = _i64(load_u16(data, at + 4 + 2 * (4 * run + group))) + _OFFSET
                    for j in range(8):
                        x = _next(x)
                        value = scale * abs(_sum(x))
                        if _i64(data[at + 68 + 8 * group + j]) >> run & 1:
                            value = -value
                        put(out, to + 32 * run + 8 * group + j, value)


@jit
def _iq4_kt(rows: Any, values: Any, out: Any) -> None:
    blocks = rows.shape[1] // 128
    for row in range(rows.shape[0]):
        data = rows[row]
        d = load_float(data, 0)
        for block in range(blocks):
            at, to = 4 + 128 * block, 256 * (row * blocks + block)
            for run in range(8):
                low, high = load_u16(data, at + 4 * run), load_u16(data, at + 4 * run + 2)
                word = _i64(low) | _i64(high) << 16
                scale = np.float32(d * np.float32((word & 255) // 2 - 64))
                offset = _OFFSET + _FAR * (word & 1)
                for group in range(8):
                    index = 8 * run + group
                    nibble = _i64(data[at + 96 + index % 32]) << 8 - 4 * (index // 32) & 0xF00
                    x = _i64(data[at + 32 + index]) | nibble | (word >> 8 + 3 * group & 7) << 12
                    x += offset
                    for j in range(4):
                        x = _next(x)
                        put(out, to + 32 * run + 4 * group + j, scale * _sum(x))


def decode_iq1_kt(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """IQ1_KT: numbers of 13 bits for 8 elements."""
    _iq1_kt(rows_of(blocks["payload"], 4, 56, out), IQ4, out)


def decode_iq2_kt(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """IQ2_KT: numbers of 16 bits for 8 elements."""
    _iq2_kt(rows_of(blocks["payload"], 4, 68, out), IQ4, out)


def decode_iq3_kt(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """IQ3_KT: the same, and a sign for each element."""
    _iq3_kt(rows_of(blocks["payload"], 4, 100, out), IQ4, out)


def decode_iq4_kt(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """IQ4_KT: numbers of 15 bits for 4 elements."""
    _iq4_kt(rows_of(blocks["payload"], 4, 128, out), IQ4, out)
