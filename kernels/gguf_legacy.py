"""GGUF's first block formats: Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0, 32 elements a block.

| type | bytes | layout, in order               | value of element j |
|------|-------|--------------------------------|--------------------|
| Q4_0 | 18    | d f16, qs[16]                  | d * (q - 8)        |
| Q4_1 | 20    | d f16, m f16, qs[16]           | d * q + m          |
| Q5_0 | 22    | d f16, qh u32, qs[16]          | d * (q - 16)       |
| Q5_1 | 24    | d f16, m f16, qh u32, qs[16]   | d * q + m          |
| Q8_0 | 34    | d f16, qs[32] int8             | d * q              |

Nibbles: the low one of qs[j] is element j, the high one element j + 16; bit j of qh is bit 4 of
element j's q. Arithmetic is float32, product and sum each rounded. Sources: ggml's
`ggml/src/ggml-common.h` (block structs) and `ggml/src/ggml-quants.c` (`dequantize_row_*`),
https://github.com/ggml-org/llama.cpp; `gguf-py/gguf/quants.py` there.
"""

from __future__ import annotations

from anamnesis.kernels._blocks import decoder_of

decode_q4_0, decode_q4_1 = decoder_of("gguf-q4-0"), decoder_of("gguf-q4-1")
decode_q5_0, decode_q5_1 = decoder_of("gguf-q5-0"), decoder_of("gguf-q5-1")
decode_q8_0 = decoder_of("gguf-q8-0")
