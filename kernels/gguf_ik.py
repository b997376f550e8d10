"""ik_llama.cpp's block types: Q6_0, IQ2_K to IQ6_K, and IQ*_KS, _KSS, _KL, _BN with a scale a row.

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
| IQ1_BN | 13 for 64, row f16 | ql[12], extra u8: five digits to the base three a byte |
| IQ2_BN | 16 for 64, row f32 | qs[16] |

Blocks have 256 elements, but for Q6_0 and BitNet's. "row" is the scale d that stands once before
the blocks of a row. A run has 16 elements (`_K`) or 32; its code picks one of the values below, of
which there is a second set, a little moved, that a bit of the run selects (`extra`, or the lowest
bit of a scale):

    value = (d * scale) * values[code]          two float32 products

Q6_0: `(code - 32) * d`. BitNet's: `(code - 1) * d`, as the products of ik_llama.cpp have it and its
function of IQ2_BN_R4; those of the two plain types leave the scale out. An IQ2_KL code of five bits
stands for two elements. In IQ4_KSS each 16-bit word gives its lowest bit to the scale of its run,
and the others are a Gray code of the nibbles.
IQ6_K's values are a polynomial of the code in float32, each step fused with the multiplication as
in any build of ik_llama.cpp (which needs AVX2 or NEON); one is added for the second set.
Sources: https://github.com/ikawrakow/ik_llama.cpp ggml/src/ggml-common.h (block structs and
tables), ggml/src/iqk/iqk_quantize.cpp and ggml/src/ggml-quants.c (`dequantize_row_*`).
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels._blocks import decoder_of
from anamnesis.kernels.types import Array

_FOUR = [-31, -13, 1, 17]
_EIGHT = [-63, -40, -23, -10, 1, 13, 28, 47]
_SIXTEEN = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
_THIRTY_TWO = [
    *(-126, -114, -103, -92, -83, -74, -65, -57, -50, -43, -36, -30, -24, -18, -12, -6),
    *(-1, 5, 11, 17, 23, 29, 36, 43, 51, 59, 68, 77, 87, 97, 109, 121),
]


def _two_sets(values: list[int], moved: int) -> Array:
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


def _iq6() -> Array:
    """Horner's scheme; a double holds each exact product, so its sum is rounded as if fused."""
    code = np.arange(64, dtype=np.float64)
    value = np.full(64, np.float32(0.0011972), np.float64)
    for term in (-0.11218, 6.2568, -127.0):
        value = (value * code + np.float32(term)).astype(np.float32).astype(np.float64)
    first = value.astype(np.float32)
    return np.concatenate([first, first + np.float32(1)])


_IQ6 = _iq6()


decode_iq2_k, decode_iq3_k = decoder_of("gguf-iq2-k", _IQ2), decoder_of("gguf-iq3-k", _IQ3)
decode_iq4_k, decode_iq5_k = decoder_of("gguf-iq4-k", IQ4), decoder_of("gguf-iq5-k", _IQ5)
decode_iq6_k = decoder_of("gguf-iq6-k", _IQ6)
decode_iq2_ks, decode_iq3_ks = decoder_of("gguf-iq2-ks", _IQ2), decoder_of("gguf-iq3-ks", _IQ3)
decode_iq4_ks, decode_iq5_ks = decoder_of("gguf-iq4-ks", IQ4), decoder_of("gguf-iq5-ks", _IQ5)
decode_iq1_bn, decode_iq2_bn = decoder_of("gguf-iq1-bn"), decoder_of("gguf-iq2-bn")
decode_iq2_kl = decoder_of("gguf-iq2-kl", _KL)
decode_iq4_kss = decoder_of("gguf-iq4-kss", IQ4)
decode_q6_0 = decoder_of("gguf-q6-0")
