"""GGUF's IQ2 types: eight magnitudes at a time from a codebook, each with a sign.

Sources: ggml-org/llama.cpp, ggml/src/ggml-common.h (`block_iq2_xxs`, `block_iq2_xs`,
`block_iq2_s`, the grids, `ksigns_iq2xs`) and ggml/src/ggml-quants.c (`dequantize_row_iq2_*`).

| type | elements, bytes | layout |
|---|---|---|
| IQ2_XXS | 256, 66 | d f16; 8 * (points u8[4], u32: 4 * 7 bits of signs, 4 bits of scale) |
| IQ2_XS | 256, 74 | d f16; qs u16[32]: 9 bits of point, 7 bits of signs; scales u8[8] |
| IQ2_S | 256, 82 | d f16; qs u8[32]; signs u8[32]; qh u8[8]: 4 * 2 bits; scales u8[8] |

The two bits of `qh` are bits 8 and 9 of a point's index.
Seven bits of signs choose a byte of signs with an even number of ones. A byte of `scales` holds
two scales, the low half first, each for 16 elements. The value is
`d * (0.5 + scale) * 0.25 * magnitude`, the products exact in float32.
"""

from __future__ import annotations

from anamnesis.kernels._blocks import decoder_of
from anamnesis.kernels._grids import ALL_BYTES, bit_words, point_words, read

# Codes: bits 0-1 a magnitude, bit 2 the sign, bit 3 the second scale of a table.
XXS, MAGNITUDES = point_words("iq2xxs_grid")
_XS, _ = point_words("iq2xs_grid")
_S, _ = point_words("iq2s_grid")
_SIGNS = bit_words(ALL_BYTES, 4)
_EVEN_SIGNS = bit_words(read("ksigns_iq2xs"), 4)
decode_iq2_xxs = decoder_of("gguf-iq2-xxs", XXS, _EVEN_SIGNS)
decode_iq2_xs = decoder_of("gguf-iq2-xs", _XS, _EVEN_SIGNS)
decode_iq2_s = decoder_of("gguf-iq2-s", _S, _SIGNS)
