"""GGUF's types of one to two bits an element: Q1_0, Q2_0, TQ1_0 and TQ2_0.

Sources: ggml-org/llama.cpp, ggml/src/ggml-common.h (`block_q1_0`, `block_q2_0`, `block_tq1_0`,
`block_tq2_0`) and ggml/src/ggml-quants.c (`dequantize_row_*`). Q2_0 in groups of 128: early files
of PrismML, which use the type number 42 as well (ggml-org/llama.cpp#22256).

| type | elements, bytes | layout | value |
|---|---|---|---|
| Q1_0 | 128, 18 | d f16; qs u8[16], bit j % 8 of byte j // 8 | bit ? d : -d |
| Q2_0 | 64, 18 | d f16; qs u8[16], bits 2 * (j % 4) of byte j // 4 | d * (q - 1) |
| Q2_0, group 128 | 128, 34 | d f16; qs u8[32], the same | d * (q - 1) |
| TQ1_0 | 256, 54 | qs u8[48], qh u8[4], d f16 | d * (q - 1) |
| TQ2_0 | 256, 66 | qs u8[2][32], each the bits 0, 2, 4, 6 of 32 bytes; d f16 | d * (q - 1) |

A TQ1_0 byte holds five base-3 digits, in `qh` four. Its first 32 bytes give 5 * 32 elements (all
first digits, then all second ones), the next 16 give 5 * 16, and `qh` gives 4 * 4.
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels._blocks import decoder_of
from anamnesis.kernels._grids import ALL_BYTES, bit_words

_ONE_BIT = bit_words(ALL_BYTES, 1)
_TWO_BITS = (ALL_BYTES[:, None] >> np.array([0, 2, 4, 6], np.uint8) & 3).view("<u4").reshape(-1)
decode_q1_0 = decoder_of("gguf-q1-0", _ONE_BIT)
decode_q2_0 = decoder_of("gguf-q2-0", _TWO_BITS, 64)
# As the first PrismML files have it.
decode_q2_0_g128 = decoder_of("gguf-q2-0-g128", _TWO_BITS, 128, body="gguf_bits:q2_0")
decode_tq1_0 = decoder_of("gguf-tq1-0")
decode_tq2_0 = decoder_of("gguf-tq2-0")  # and 2 * d, which no writer makes
