"""GGUF's IQ4 types: four-bit codes into a fixed table of sixteen values.

Sources: ggml-org/llama.cpp, ggml/src/ggml-common.h (`block_iq4_nl`, `block_iq4_xs`,
`kvalues_iq4nl`) and ggml/src/ggml-quants.c (`dequantize_row_iq4_nl`, `_iq4_xs`).

| type | elements, bytes | layout |
|---|---|---|
| IQ4_NL | 32, 18 | d f16; qs u8[16] |
| IQ4_XS | 256, 136 | d f16; scales_h u16; scales_l u8[4]; qs u8[128] |

Sixteen bytes of `qs` hold 32 elements: first the low halves, then the high halves. An IQ4_XS block
has eight runs of 32, each with a scale of six bits: four in `scales_l`, two in `scales_h`.
Every product has at most 24 significant bits, so float32 holds it exactly.
"""

from __future__ import annotations

from anamnesis.kernels._blocks import decoder_of

decode_iq4_nl, decode_iq4_xs = decoder_of("gguf-iq4-nl"), decoder_of("gguf-iq4-xs")
