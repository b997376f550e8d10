"""GGUF's IQ3 types: four magnitudes at a time from a codebook, each with a sign.

Sources: ggml-org/llama.cpp, ggml/src/ggml-common.h (`block_iq3_xxs`, `block_iq3_s`, the grids,
`ksigns_iq2xs`) and ggml/src/ggml-quants.c (`dequantize_row_iq3_*`).

| type | elements, bytes | layout |
|---|---|---|
| IQ3_XXS | 256, 98 | d f16; points u8[64]; u32[8]: 4 * 7 bits of signs, 4 bits of scale |
| IQ3_S | 256, 110 | d f16; qs u8[64]; qh u8[8]; signs u8[32]; scales u8[4] |

A bit of `qh` is bit 8 of a point's index.
Seven bits of signs choose a byte of signs with an even number of ones. A byte of `scales` holds
the scales of two runs of 32, the low half first. The value is `d * (0.5 + scale) * 0.5 * magnitude`
(IQ3_XXS) or `d * (1 + 2 * scale) * magnitude` (IQ3_S), the products exact in float32.
"""

from __future__ import annotations

from anamnesis.kernels._blocks import decoder_of
from anamnesis.kernels._grids import ALL_BYTES, bit_words, point_words, read

# Codes: bits 0-2 a magnitude, bit 3 the sign.
XXS, XXS_MAGNITUDES = point_words("iq3xxs_grid")
S, S_MAGNITUDES = point_words("iq3s_grid")
_SIGNS = bit_words(ALL_BYTES, 8)
_EVEN_SIGNS = bit_words(read("ksigns_iq2xs"), 8)
decode_iq3_xxs = decoder_of("gguf-iq3-xxs", XXS, _EVEN_SIGNS)
decode_iq3_s = decoder_of("gguf-iq3-s", S, _SIGNS)
