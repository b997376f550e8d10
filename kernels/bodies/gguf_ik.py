"""Bodies of `kernels/gguf_ik.py`, which has the layout.

Source: ik_llama.cpp ggml/src/ggml-common.h (`block_iq*`), iqk_quantize.cpp.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import as_f32, inline, jit, put
from anamnesis.kernels.bodies._vector import clean_nan, load_half, load_u16
from anamnesis.kernels.bodies.bits import u32
from anamnesis.kernels.types import Array, Bytes, Floats, Integer

_i64 = np.int64


@inline
def load_float(data: Bytes, at: int) -> Any:
    """The little-endian float32 at byte `at`; NaNs as in `clean_nan`."""
    low, high = load_u16(data, at), load_u16(data, at + 2)
    return clean_nan(as_f32(u32(low | u32(high << u32(16)))))


@inline
def _scale(d: np.float32, number: Integer) -> Any:
    return np.float32(d * np.float32(number))


@jit
def q6_0(data: Bytes, out: Array) -> None:
    """Q6_0: d f16, qh u8[8], qs u8[16]."""
    for block in range(data.shape[0] // 26):
        at = 26 * block
        d = load_half(data, at)
        for j in range(16):
            # Byte j of qs has elements j and 16 + j, the low half first; two bits each of qh are
            # their bits 4 and 5.
            high, low = _i64(data[at + 2 + j % 8]) >> 4 * (j // 8), _i64(data[at + 10 + j])
            put(out, 32 * block + j, _scale(d, (low & 15 | (high & 3) << 4) - 32))
            put(out, 32 * block + 16 + j, _scale(d, (low >> 4 | (high & 12) << 2) - 32))


@jit
def iq2_k(data: Bytes, values: Floats, out: Array) -> None:
    """IQ2_K: d f16, extra u16, scales u8[8], qs u8[64]; `values` has two sets of four."""
    for block in range(data.shape[0] // 76):
        at = 76 * block
        d, extra = load_half(data, at), _i64(load_u16(data, at + 2))
        for run in range(16):
            # A nibble of scale a run of 16; its bit of extra chooses the set.
            # scales: the low half of byte k is run 2 k, the high half run 2 k + 1, both less 8.
            number = (_i64(data[at + 4 + run // 2]) >> 4 * (run % 2) & 15) - 8
            scale, first = _scale(d, number), 4 * (extra >> run & 1)
            part = run // 2
            # qs: byte l of half h, bits 2 j and 2 j + 1, are element 128 h + 32 j + l; 32 bytes a
            # half.
            qs = at + 12 + 32 * (part // 4) + 16 * (run % 2)
            for j in range(16):
                code = _i64(data[qs + j]) >> 2 * (part % 4) & 3
                put(out, 256 * block + 16 * run + j, scale * values[first + code])


@jit
def iq3_k(data: Bytes, values: Floats, out: Array) -> None:
    """IQ3_K: d f16, extra u16, scales_h u16, scales_l u8[8], qs u8[64], qh u8[32]."""
    for block in range(data.shape[0] // 110):
        at = 110 * block
        d, extra = load_half(data, at), _i64(load_u16(data, at + 2))
        signs = _i64(load_u16(data, at + 4))
        for run in range(16):
            # A nibble of scale a run of 16, its sign in scales_h; its bit of extra chooses the set.
            number = 2 * (_i64(data[at + 6 + run // 2]) >> 4 * (run % 2) & 15) + 1
            scale = _scale(d, -number if signs >> run & 1 else number)
            first, part, half = 8 * (extra >> run & 1), run // 2, 16 * (run % 2)
            for j in range(16):
                # qs: bits 2 j, 2 j + 1 of byte l of half h are the low two bits of element 128 h +
                # 32 j + l.
                low = _i64(data[at + 14 + 32 * (part // 4) + half + j]) >> 2 * (part % 4) & 3
                # qh: bit k of byte l is bit 2 of element 32 k + l.
                high = _i64(data[at + 78 + half + j]) >> part & 1
                put(out, 256 * block + 16 * run + j, scale * values[first + (low | high << 2)])


@jit
def iq4_k(data: Bytes, values: Floats, out: Array) -> None:
    """IQ4_K: d f16, extra u16, scales_h u8[4], scales_l u8[8], qs u8[128]."""
    for block in range(data.shape[0] // 144):
        at = 144 * block
        d, extra = load_half(data, at), _i64(load_u16(data, at + 2))
        for run in range(16):
            # Four bits of scale in scales_l, two in scales_h; the bit of extra chooses the set.
            # scales_l: a nibble a run, the even one low; scales_h: runs 4 k to 4 k + 3 in byte k,
            # two bits each from the lowest on. Both together are less 32.
            low = _i64(data[at + 8 + run // 2]) >> 4 * (run % 2) & 15
            high = _i64(data[at + 4 + run // 4]) >> 2 * (run % 4) & 3
            scale, first = _scale(d, (low | high << 4) - 32), 16 * (extra >> run & 1)
            for j in range(16):
                # qs: byte 16 k + l has elements 32 k + l (low half) and 32 k + 16 + l (high half).
                code = _i64(data[at + 16 + 16 * (run // 2) + j]) >> 4 * (run % 2) & 15
                put(out, 256 * block + 16 * run + j, scale * values[first + code])


@jit
def iq5_k(data: Bytes, values: Floats, out: Array) -> None:
    """IQ5_K: d f16, extra u16, scales_h u8[4], scales_l u8[8], qs u8[128], qh u8[32]."""
    for block in range(data.shape[0] // 176):
        at = 176 * block
        d, extra = load_half(data, at), _i64(load_u16(data, at + 2))
        for run in range(16):
            low = _i64(data[at + 8 + run // 2]) >> 4 * (run % 2) & 15
            high = _i64(data[at + 4 + run // 4]) >> 2 * (run % 4) & 3
            scale, first = _scale(d, (low | high << 4) - 32), 32 * (extra >> run & 1)
            part, half = run // 2, 16 * (run % 2)
            for j in range(16):
                # qs: byte 32 k + l has elements 64 k + l (low half) and 64 k + 32 + l (high half).
                code = _i64(data[at + 16 + 32 * (part // 2) + half + j]) >> 4 * (part % 2) & 15
                # Bit `part` of a byte of qh is bit 4.
                top = _i64(data[at + 144 + half + j]) >> part & 1
                put(out, 256 * block + 16 * run + j, scale * values[first + (code | top << 4)])


@jit
def iq6_k(data: Bytes, values: Floats, out: Array) -> None:
    """IQ6_K: d f16, extra u16, scales int8[16], qs u8[128], qh u8[64]."""
    for block in range(data.shape[0] // 212):
        at = 212 * block
        d, extra = load_half(data, at), _i64(load_u16(data, at + 2))
        for run in range(16):
            # A byte in two's complement a run; the bit of extra chooses the set.
            number = (_i64(data[at + 4 + run]) ^ 128) - 128
            scale, first = _scale(d, number), 64 * (extra >> run & 1)
            part, half = run // 2, 16 * (run % 2)
            for j in range(16):
                # qs as in IQ5_K: elements 32 apart share a byte, the first in the low half.
                code = _i64(data[at + 20 + 32 * (part // 2) + half + j]) >> 4 * (part % 2) & 15
                # Two bits of a byte of qh are bits 4 and 5.
                top = _i64(data[at + 148 + 32 * (part // 4) + half + j]) >> 2 * (part % 4) & 3
                put(out, 256 * block + 16 * run + j, scale * values[first + (code | top << 4)])


@jit
def iq2_ks(rows: Bytes, values: Floats, out: Array) -> None:
    """IQ2_KS: d f16 a row; extra u16, scales u8[4], qs u8[64] a block."""
    blocks = rows.shape[1] // 70
    for row in range(rows.shape[0]):
        data = rows[row]
        d = load_half(data, 0)
        for block in range(blocks):
            at, to = 2 + 70 * block, 256 * (row * blocks + block)
            extra = _i64(load_u16(data, at))
            for run in range(8):
                # extra: eight bits that choose the set, eight that are bit 4 of a scale.
                # scales: nibbles, run 2 k in the low half of byte k, less 16 with bit 4.
                low = _i64(data[at + 2 + run // 2]) >> 4 * (run % 2) & 15
                scale = _scale(d, (low | (extra >> 8 + run & 1) << 4) - 16)
                first = 4 * (extra >> run & 1)
                for j in range(32):
                    # qs: bits 2 j, 2 j + 1 of byte l of half h are element 128 h + 32 j + l.
                    code = _i64(data[at + 6 + 32 * (run // 4) + j]) >> 2 * (run % 4) & 3
                    put(out, to + 32 * run + j, scale * values[first + code])


@jit
def iq3_ks(rows: Bytes, values: Floats, out: Array) -> None:
    """IQ3_KS: d f16 a row; extra u16, scales u8[4], qs u8[64], qh u8[32] a block."""
    blocks = rows.shape[1] // 102
    for row in range(rows.shape[0]):
        data = rows[row]
        d = load_half(data, 0)
        for block in range(blocks):
            at, to = 2 + 102 * block, 256 * (row * blocks + block)
            extra = _i64(load_u16(data, at))
            for run in range(8):
                # extra: eight bits that are bit 4 of a scale, eight that choose the set.
                # scales: run k in the low half of byte k, run 4 + k in the high one.
                low = _i64(data[at + 2 + run % 4]) >> 4 * (run // 4) & 15
                scale = _scale(d, (low | (extra >> run & 1) << 4) - 16)
                first = 8 * (extra >> 8 + run & 1)
                for j in range(32):
                    # qs as in IQ2_KS; qh: bit k of byte l is bit 2 of element 32 k + l.
                    code = _i64(data[at + 6 + 32 * (run // 4) + j]) >> 2 * (run % 4) & 3
                    high = _i64(data[at + 70 + j]) >> run & 1
                    put(out, to + 32 * run + j, scale * values[first + (code | high << 2)])


@jit
def iq4_ks(rows: Bytes, values: Floats, out: Array) -> None:
    """IQ4_KS: d f32 a row; scales u8[8], qs u8[128] a block."""
    blocks = rows.shape[1] // 136
    for row in range(rows.shape[0]):
        data = rows[row]
        d = load_float(data, 0)
        for block in range(blocks):
            at, to = 4 + 136 * block, 256 * (row * blocks + block)
            for run in range(8):
                number = _i64(data[at + run])
                # Bit 0 of a scale chooses the set.
                scale, first = _scale(d, (number & 254) - 127), 16 * (number & 1)
                for j in range(16):
                    # qs: byte 16 k + l has elements 32 k + l (low half) and 32 k + 16 + l (high
                    # half).
                    qs = _i64(data[at + 8 + 16 * run + j])
                    put(out, to + 32 * run + j, scale * values[first + (qs & 15)])
                    put(out, to + 32 * run + 16 + j, scale * values[first + (qs >> 4)])


@jit
def iq4_kss(rows: Bytes, values: Floats, out: Array) -> None:
    """IQ4_KSS: d f32 a row; u16[64] a block, 15 bits of codes and one of the scale each."""
    blocks = rows.shape[1] // 128
    for row in range(rows.shape[0]):
        data = rows[row]
        d = load_float(data, 0)
        for block in range(blocks):
            at, to = 4 + 128 * block, 256 * (row * blocks + block)
            for run in range(8):
                number = _i64(0)
                for k in range(8):
                    # Bit 0 of the k-th word of a run is bit k of its scale.
                    number |= (_i64(data[at + 16 * run + 2 * k]) & 1) << k
                scale, first = _scale(d, (number & 254) - 127), 16 * (number & 1)
                for k in range(8):
                    word = _i64(load_u16(data, at + 16 * run + 2 * k)) & 0xFFFE
                    # Bit i of four nibbles is stored bit i xor bit i + 1; the scale's counts as 0.
                    word ^= word >> 1
                    for i in range(2):
                        qs = word >> 8 * i & 255
                        j = to + 32 * run + 2 * k + i
                        put(out, j, scale * values[first + (qs & 15)])
                        put(out, j + 16, scale * values[first + (qs >> 4)])


@jit
def iq5_ks(rows: Bytes, values: Floats, out: Array) -> None:
    """IQ5_KS: d f32 a row; scales u8[8], qs u8[128], qh u8[32] a block."""
    blocks = rows.shape[1] // 168
    for row in range(rows.shape[0]):
        data = rows[row]
        d = load_float(data, 0)
        for block in range(blocks):
            at, to = 4 + 168 * block, 256 * (row * blocks + block)
            for run in range(8):
                number = _i64(data[at + run])
                # Bit 0 of a scale chooses the set.
                scale, first = _scale(d, (number & 254) - 127), 32 * (number & 1)
                for j in range(32):
                    # qs: elements 64 k + l and 64 k + 32 + l in byte 32 k + l; qh: bit k of byte l
                    # is bit 4 of element 32 k + l.
                    code = _i64(data[at + 8 + 32 * (run // 2) + j]) >> 4 * (run % 2) & 15
                    top = _i64(data[at + 136 + j]) >> run & 1
                    put(out, to + 32 * run + j, scale * values[first + (code | top << 4)])


@jit
def iq2_kl(rows: Bytes, pairs: Floats, out: Array) -> None:
    """IQ2_KL: d f16 a row; scales_h u16, scales_l u8[4], qs u8[64], qh u8[16] a block."""
    blocks = rows.shape[1] // 86
    for row in range(rows.shape[0]):
        data = rows[row]
        d = load_half(data, 0)
        for block in range(blocks):
            at, to = 2 + 86 * block, 256 * (row * blocks + block)
            highs = _i64(load_u16(data, at))
            for run in range(8):
                # scales_l: run k in the low half of byte k, run 4 + k in the high one; bits 2 k, 2
                # k + 1 of scales_h are bits 4 and 5 of run k. Together less 32.
                low = _i64(data[at + 2 + run % 4]) >> 4 * (run // 4) & 15
                scale = _scale(d, (low | (highs >> 2 * run & 3) << 4) - 32)
                for j in range(16):
                    # qs: nibble k % 2 of byte 16 (k / 2) + l is the l-th pair of run k; qh: bit k
                    # of byte l its bit 4.
                    code = _i64(data[at + 6 + 16 * (run // 2) + j]) >> 4 * (run % 2) & 15
                    # A nibble of qs and a bit of qh choose a pair.
                    code |= (_i64(data[at + 70 + j]) >> run & 1) << 4
                    put(out, to + 32 * run + 2 * j, scale * pairs[code, 0])
                    put(out, to + 32 * run + 2 * j + 1, scale * pairs[code, 1])


@jit
def iq1_bn(rows: Bytes, out: Array) -> None:
    """IQ1_BN: d f16 a row; ql u8[12], extra u8 for 64: numbers of five digits to the base three."""
    blocks = rows.shape[1] // 13
    for row in range(rows.shape[0]):
        data = rows[row]
        d = load_half(data, 0)
        for block in range(blocks):
            at, to = 2 + 13 * block, 64 * (row * blocks + block)
            for run in range(4):
                # ql: byte 3 run + k has elements 5 k to 5 k + 4 of 16; extra: digit `run` is the
                # 16th.
                for k in range(3):
                    byte = _i64(data[at + 3 * run + k])
                    for j in range(5):
                        put(out, to + 16 * run + 5 * k + j, _scale(d, _digit(byte, j) - 1))
                put(out, to + 16 * run + 15, _scale(d, _digit(_i64(data[at + 12]), run) - 1))


@inline
def _digit(byte: Integer, place: int) -> Any:
    """A digit of a byte that is a number of five digits, lowest first, times 256 / 243, up."""
    factor = 81 if place == 0 else 27 if place == 1 else 9 if place == 2 else 3 if place == 3 else 1
    part = byte * factor & 255
    return part + (part >> 1) >> 7


@jit
def iq2_bn(rows: Bytes, out: Array) -> None:
    """IQ2_BN: d f32 a row; qs u8[16] for 64."""
    blocks = rows.shape[1] // 16
    for row in range(rows.shape[0]):
        data = rows[row]
        d = load_float(data, 0)
        for block in range(blocks):
            at, to = 4 + 16 * block, 64 * (row * blocks + block)
            for j in range(16):
                byte = _i64(data[at + j])
                for k in range(4):
                    # qs: bits 2 k, 2 k + 1 of byte j are element 16 k + j.
                    put(out, to + 16 * k + j, _scale(d, (byte >> 2 * k & 3) - 1))
