"""GGUF's K-quants: Q2_K to Q6_K, 256 elements a super-block, scales of scales.

| type | bytes | layout, in order                                   | value                     |
|------|-------|----------------------------------------------------|---------------------------|
| Q2_K | 84    | scales[16], qs[64], d f16, dmin f16                | d * sc * q - dmin * m     |
| Q3_K | 110   | hmask[32], qs[64], scales[12], d f16               | d * (sc - 32) * (q - 4)   |
| Q4_K | 144   | d f16, dmin f16, scales[12], qs[128]               | d * sc * q - dmin * m     |
| Q5_K | 176   | d f16, dmin f16, scales[12], qh[32], qs[128]       | d * sc * q - dmin * m     |
| Q6_K | 210   | ql[128], qh[64], scales[16] int8, d f16            | d * sc * (q - 32)         |

Elements, with l from 0 to 31:

- Q2_K, Q3_K: element 128 h + 32 j + l has bits 2j, 2j+1 of qs[32 h + l]; in Q3_K bit 2 of q is bit
  4 h + j of hmask[l].
- Q4_K, Q5_K: elements 64 i + l and 64 i + 32 + l are the low and high nibble of qs[32 i + l]; in
  Q5_K bit 4 of q is bit 2 i, or 2 i + 1, of qh[l].
- Q6_K: elements 128 h + 32 j + l have as low bits the low (j < 2) or high nibble of
  ql[64 h + 32 (j mod 2) + l], and as bits 4 and 5 bits 2j, 2j+1 of qh[32 h + l].

Scales: one each 16 elements (Q4_K, Q5_K: 32). Q2_K: sc in the low nibble, m in the high one.
Q3_K: sc k has as low bits the low (k < 8) or high nibble of byte k mod 8, as bits 4 and 5 bits
2 (k div 4), + 1 of byte 8 + k mod 4. Q4_K, Q5_K, with k < 4: sc k is the low 6 bits of byte k, m k
those of byte 4 + k; sc and m 4 + k are the low and high nibble of byte 8 + k, with the top two bits
of byte k, or 4 + k, as bits 4 and 5.

Arithmetic is float32, each operation rounded, `d * sc` first. Sources: ggml's
`ggml/src/ggml-common.h` (block structs) and `ggml/src/ggml-quants.c` (`dequantize_row_*`,
`get_scale_min_k4`), https://github.com/ggml-org/llama.cpp; `gguf-py/gguf/quants.py` there.
"""

from __future__ import annotations

from anamnesis.kernels._blocks import decoder_of

decode_q2_k, decode_q3_k = decoder_of("gguf-q2-k"), decoder_of("gguf-q3-k")
decode_q4_k, decode_q5_k = decoder_of("gguf-q4-k"), decoder_of("gguf-q5-k")
decode_q6_k = decoder_of("gguf-q6-k")
