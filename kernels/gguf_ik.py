"""ik_llama.cpp's block types: Q6_0, IQ2_K to IQ6_K, and IQ*_KS, _KSS, _KL with a scale a row.

| type | bytes | layout, in order |
|---|---|---|
| Q6_0 | 26 for 32 | d f16, qh[8], qs[16] |
| IQ2_K | 76 | d f16, extra u16, scales[8], qs[64] |
| IQ3_K | 110 | d f16, extra u16, scales_h u16, scales_l[8], qs[64], qh[32] |
| IQ4_K | 144 | d f16, extra u16, scales_h[4], scales_l[8], qs[128] |
| IQ5_K | 176 | d f16, extra u16, scales_h[4], scales_l[8], qs[128], qh[32] |
| IQ6_K | 212 | d f16, extra u16, scales int8[16], qs[128], qh[64] |
| IQ2_KS | 70, row f16 | extra u16, scales[4], qs[64] |
| IQ3_KS | 102, row f16 | extra u16, scales[4], qs[64], qh[32] |
| IQ4_KS | 136, row f32 | scales[8], qs[128] |
| IQ4_KSS | 128, row f32 | qs u32[32] |
| IQ5_KS | 168, row f32 | scales[8], qs[128], qh[32] |
| IQ2_KL | 86, row f16 | scales_h u16, scales_l[4], qs[64], qh[16] |

Blocks have 256 elements, but for Q6_0. "row" is the scale d that stands once before the blocks of a
row. A run has 16 elements (`_K`) or 32; its code picks one of the values below, of which there is
a second set, a little moved, that a bit of the run selects (`extra`, or the lowest bit of a scale):

    value = (d * scale) * values[code]          two float32 products

Q6_0: `(code - 32) * d`. An IQ2_KL code of five bits stands for two elements. In IQ4_KSS each 16-bit
word gives its lowest bit to the scale of its run, and the others are a Gray code of the nibbles.
IQ6_K's values are a polynomial of the code in float32, each step fused with the multiplication as
in any build of ik_llama.cpp (which needs AVX2 or NEON); one is added for the second set.
Sources: https://github.com/ikawrakow/ik_llama.cpp ggml/src/ggml-common.h (block structs and
tables), ggml/src/iqk/iqk_quantize.cpp and ggml/src/ggml-quants.c (`dequantize_row_*`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._jit import as_f32, inline, jit, put
from anamnesis.kernels._vector import clean_nan, load_half, load_u16, run_blocks
from anamnesis.kernels.bits import u32

_i64 = np.int64
_FOUR = [-31, -13, 1, 17]
_EIGHT = [-63, -40, -23, -10, 1, 13, 28, 47]
_SIXTEEN = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
_THIRTY_TWO = [
    *(-126, -114, -103, -92, -83, -74, -65, -57, -50, -43, -36, -30, -24, -18, -12, -6),
    *(-1, 5, 11, 17, 23, 29, 36, 43, 51, 59, 68, 77, 87, 97, 109, 121),
]


def _two_sets(values: list[int], moved: int) -> Any:
    return np.array([*values, *(value + moved for value in values)], np.float32)


_IQ2, _IQ3 = _two_sets(_FOUR, 5), _two_sets(_EIGHT, 4)
IQ4, _IQ5 = _two_sets(_SIXTEEN, 4), _two_sets(_THIRTY_TWO, 2)
# Pairs of IQ2_KL, as numbers of the six values below.
_KL_VALUES = np.array([-63, -40, -23, -10, 1, 13, 28, 47], np.float32)
_PAIRS = np.array(
    [
        *((0, 2), (0, 5), (1, 0), (1, 3), (1, 5), (1, 7), (2, 1), (2, 2)),
        *((2, 4), (2, 5), (2, 6), (3, 0), (3, 4), (3, 5), (3, 7), (4, 2)),
        *((4, 3), (4, 4), (4, 5), (4, 6), (5, 1), (5, 2), (5, 3), (5, 4)),
        *((5, 5), (6, 0), (6, 2), (6, 4), (6, 6), (6, 7), (7, 2), (7, 5)),
    ]
)
_KL = _KL_VALUES[_PAIRS]


def _iq6() -> Any:
    """Horner's scheme; a double holds each exact product, so its sum is rounded as if fused."""
    code = np.arange(64, dtype=np.float64)
    value = np.full(64, np.float32(0.0011972), np.float64)
    for term in (-0.11218, 6.2568, -127.0):
        value = (value * code + np.float32(term)).astype(np.float32).astype(np.float64)
    first = value.astype(np.float32)
    return np.concatenate([first, first + np.float32(1)])


_IQ6 = _iq6()


@inline
def load_float(data: Any, at: Any) -> Any:
    """The little-endian float32 at byte `at`; NaNs as in `clean_nan`."""
    low, high = load_u16(data, at), load_u16(data, at + 2)
    return clean_nan(as_f32(u32(low | u32(high << u32(16)))))


@inline
def _scale(d: Any, number: Any) -> Any:
    return np.float32(d * np.float32(number))


@jit
def _q6_0(data: Any, out: Any) -> None:
    for block in range(data.shape[0] // 26):
        at = 26 * block
        d = load_half(data, at)
        for j in range(16):
            high, low = _i64(data[at + 2 + j % 8]) >> 4 * (j // 8), _i64(data[at + 10 + j])
            put(out, 32 * block + j, _scale(d, (low & 15 | (high & 3) << 4) - 32))
            put(out, 32 * block + 16 + j, _scale(d, (low >> 4 | (high & 12) << 2) - 32))


@jit
def _iq2_k(data: Any, values: Any, out: Any) -> None:
    for block in range(data.shape[0] // 76):
        at = 76 * block
        d, extra = load_half(data, at), _i64(load_u16(data, at + 2))
        for run in range(16):
            number = (_i64(data[at + 4 + run // 2]) >> 4 * (run % 2) & 15) - 8
            scale, first = _scale(d, number), 4 * (extra >> run & 1)
            part = run // 2
            qs = at + 12 + 32 * (part // 4) + 16 * (run % 2)
            for j in range(16):
                code = _i64(data[qs + j]) >> 2 * (part % 4) & 3
                put(out, 256 * block + 16 * run + j, scale * values[first + code])


@jit
def _iq3_k(data: Any, values: Any, out: Any) -> None:
    for block in range(data.shape[0] // 110):
        at = 110 * block
        d, extra = load_half(data, at), _i64(load_u16(data, at + 2))
        signs = _i64(load_u16(data, at + 4))
        for run in range(16):
            number = 2 * (_i64(data[at + 6 + run // 2]) >> 4 * (run % 2) & 15) + 1
            scale = _scale(d, -number if signs >> run & 1 else number)
            first, part, half = 8 * (extra >> run & 1), run // 2, 16 * (run % 2)
            for j in range(16):
                low = _i64(data[at + 14 + 32 * (part // 4) + half + j]) >> 2 * (part % 4) & 3
                high = _i64(data[at + 78 + half + j]) >> part & 1
                put(out, 256 * block + 16 * run + j, scale * values[first + (low | high << 2)])


@jit
def _iq4_k(data: Any, values: Any, out: Any) -> None:
    for block in range(data.shape[0] // 144):
        at = 144 * block
        d, extra = load_half(data, at), _i64(load_u16(data, at + 2))
        for run in range(16):
            low = _i64(data[at + 8 + run // 2]) >> 4 * (run % 2) & 15
            high = _i64(data[at + 4 + run // 4]) >> 2 * (run % 4) & 3
            scale, first = _scale(d, (low | high << 4) - 32), 16 * (extra >> run & 1)
            for j in range(16):
                code = _i64(data[at + 16 + 16 * (run // 2) + j]) >> 4 * (run % 2) & 15
                put(out, 256 * block + 16 * run + j, scale * values[first + code])


@jit
def _iq5_k(data: Any, values: Any, out: Any) -> None:
    for block in range(data.shape[0] // 176):
        at = 176 * block
        d, extra = load_half(data, at), _i64(load_u16(data, at + 2))
        for run in range(16):
            low = _i64(data[at + 8 + run // 2]) >> 4 * (run % 2) & 15
            high = _i64(data[at + 4 + run // 4]) >> 2 * (run % 4) & 3
            scale, first = _scale(d, (low | high << 4) - 32), 32 * (extra >> run & 1)
            part, half = run // 2, 16 * (run % 2)
            for j in range(16):
                code = _i64(data[at + 16 + 32 * (part // 2) + half + j]) >> 4 * (part % 2) & 15
                top = _i64(data[at + 144 + half + j]) >> part & 1
                put(out, 256 * block + 16 * run + j, scale * values[first + (code | top << 4)])


@jit
def _iq6_k(data: Any, values: Any, out: Any) -> None:
    for block in range(data.shape[0] // 212):
        at = 212 * block
        d, extra = load_half(data, at), _i64(load_u16(data, at + 2))
        for run in range(16):
            number = (_i64(data[at + 4 + run]) ^ 128) - 128
            scale, first = _scale(d, number), 64 * (extra >> run & 1)
            part, half = run // 2, 16 * (run % 2)
            for j in range(16):
                code = _i64(data[at + 20 + 32 * (part // 2) + half + j]) >> 4 * (part % 2) & 15
                top = _i64(data[at + 148 + 32 * (part // 4) + half + j]) >> 2 * (part % 4) & 3
                put(out, 256 * block + 16 * run + j, scale * values[first + (code | top << 4)])


@jit
def _iq2_ks(rows: Any, values: Any, out: Any) -> None:
    blocks = rows.shape[1] // 70
    for row in range(rows.shape[0]):
        data = rows[row]
        d = load_half(data, 0)
        for block in range(blocks):
            at, to = 2 + 70 * block, 256 * (row * blocks + block)
            extra = _i64(load_u16(data, at))
            for run in range(8):
                low = _i64(data[at + 2 + run // 2]) >> 4 * (run % 2) & 15
                scale = _scale(d, (low | (extra >> 8 + run & 1) << 4) - 16)
                first = 4 * (extra >> run & 1)
                for j in range(32):
                    code = _i64(data[at + 6 + 32 * (run // 4) + j]) >> 2 * (run % 4) & 3
                    put(out, to + 32 * run + j, scale * values[first + code])


@jit
def _iq3_ks(rows: Any, values: Any, out: Any) -> None:
    blocks = rows.shape[1] // 102
    for row in range(rows.shape[0]):
        data = rows[row]
        d = load_half(data, 0)
        for block in range(blocks):
            at, to = 2 + 102 * block, 256 * (row * blocks + block)
            extra = _i64(load_u16(data, at))
            for run in range(8):
                low = _i64(data[at + 2 + run % 4]) >> 4 * (run // 4) & 15
                scale = _scale(d, (low | (extra >> run & 1) << 4) - 16)
                first = 8 * (extra >> 8 + run & 1)
                for j in range(32):
                    code = _i64(data[at + 6 + 32 * (run // 4) + j]) >> 2 * (run % 4) & 3
                    high = _i64(data[at + 70 + j]) >> run & 1
                    put(out, to + 32 * run + j, scale * values[first + (code | high << 2)])


@jit
def _iq4_ks(rows: Any, values: Any, out: Any) -> None:
    blocks = rows.shape[1] // 136
    for row in range(rows.shape[0]):
        data = rows[row]
        d = load_float(data, 0)
        for block in range(blocks):
            at, to = 4 + 136 * block, 256 * (row * blocks + block)
            for run in range(8):
                number = _i64(data[at + run])
                scale, first = _scale(d, (number & 254) - 127), 16 * (number & 1)
                for j in range(16):
                    qs = _i64(data[at + 8 + 16 * run + j])
                    put(out, to + 32 * run + j, scale * values[first + (qs & 15)])
                    put(out, to + 32 * run + 16 + j, scale * values[first + (qs >> 4)])


@jit
def _iq4_kss(rows: Any, values: Any, out: Any) -> None:
    blocks = rows.shape[1] // 128
    for row in range(rows.shape[0]):
        data = rows[row]
        d = load_float(data, 0)
        for block in range(blocks):
            at, to = 4 + 128 * block, 256 * (row * blocks + block)
            for run in range(8):
                number = _i64(0)
                for k in range(8):
                    number |= (_i64(data[at + 16 * run + 2 * k]) & 1) << k
                scale, first = _scale(d, (number & 254) - 127), 16 * (number & 1)
                for k in range(8):
                    word = _i64(load_u16(data, at + 16 * run + 2 * k)) & 0xFFFE
                    word ^= word >> 1
                    for i in range(2):
                        qs = word >> 8 * i & 255
                        j = to + 32 * run + 2 * k + i
                        put(out, j, scale * values[first + (qs & 15)])
                        put(out, j + 16, scale * values[first + (qs >> 4)])


@jit
def _iq5_ks(rows: Any, values: Any, out: Any) -> None:
    blocks = rows.shape[1] // 168
    for row in range(rows.shape[0]):
        data = rows[row]
        d = load_float(data, 0)
        for block in range(blocks):
            at, to = 4 + 168 * block, 256 * (row * blocks + block)
            for run in range(8):
                number = _i64(data[at + run])
                scale, first = _scale(d, (number & 254) - 127), 32 * (number & 1)
                for j in range(32):
                    code = _i64(data[at + 8 + 32 * (run // 2) + j]) >> 4 * (run % 2) & 15
                    top = _i64(data[at + 136 + j]) >> run & 1
                    put(out, to + 32 * run + j, scale * values[first + (code | top << 4)])


@jit
def _iq2_kl(rows: Any, pairs: Any, out: Any) -> None:
    blocks = rows.shape[1] // 86
    for row in range(rows.shape[0]):
        data = rows[row]
        d = load_half(data, 0)
        for block in range(blocks):
            at, to = 2 + 86 * block, 256 * (row * blocks + block)
            highs = _i64(load_u16(data, at))
            for run in range(8):
                low = _i64(data[at + 2 + run % 4]) >> 4 * (run // 4) & 15
                scale = _scale(d, (low | (highs >> 2 * run & 3) << 4) - 32)
                for j in range(16):
                    code = _i64(data[at + 6 + 16 * (run // 2) + j]) >> 4 * (run % 2) & 15
                    code |= (_i64(data[at + 70 + j]) >> run & 1) << 4
                    put(out, to + 32 * run + 2 * j, scale * pairs[code, 0])
                    put(out, to + 32 * run + 2 * j + 1, scale * pairs[code, 1])


def rows_of(payload: Any, meta: int, block: int, out: Any) -> Any:
    """Rows as read-only bytes; raises ValueError unless they are whole, and `out` is their size."""
    rows, nbytes = payload.shape
    blocks, rest = divmod(nbytes - meta, block)
    if rest or blocks < 0 or out.shape != (256 * rows * blocks,):
        raise ValueError(f"rows of {nbytes} bytes, blocks of {block}: out {out.shape}")
    view = np.ascontiguousarray(payload).view()
    view.setflags(write=False)
    return view


Decode = Callable[[Mapping[str, Any], Mapping[str, Any], Window, Any], None]


def _blocks(kernel: Any, values: Any, nbytes: int) -> Decode:
    def decode(
        blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
    ) -> None:
        run_blocks(lambda data, out: kernel(data, values, out), blocks["payload"], nbytes, 256, out)

    return decode


def _rows(kernel: Any, values: Any, meta: int, nbytes: int) -> Decode:
    def decode(
        blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
    ) -> None:
        kernel(rows_of(blocks["payload"], meta, nbytes, out), values, out)

    return decode


def decode_q6_0(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Q6_0: 6-bit codes around 32."""
    run_blocks(_q6_0, blocks["payload"], 26, 32, out)


decode_iq2_k = _blocks(_iq2_k, _IQ2, 76)
decode_iq2_kl = _rows(_iq2_kl, _KL, 2, 86)
decode_iq2_ks = _rows(_iq2_ks, _IQ2, 2, 70)
decode_iq3_k = _blocks(_iq3_k, _IQ3, 110)
decode_iq3_ks = _rows(_iq3_ks, _IQ3, 2, 102)
decode_iq4_k = _blocks(_iq4_k, IQ4, 144)
decode_iq4_ks = _rows(_iq4_ks, IQ4, 4, 136)
decode_iq4_kss = _rows(_iq4_kss, IQ4, 4, 128)
decode_iq5_k = _blocks(_iq5_k, _IQ5, 176)
decode_iq5_ks = _rows(_iq5_ks, _IQ5, 4, 168)
decode_iq6_k = _blocks(_iq6_k, _IQ6, 212)
