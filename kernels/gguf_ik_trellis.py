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

from anamnesis.kernels._blocks import decoder_of
from anamnesis.kernels.gguf_ik import IQ4

decode_iq1_kt, decode_iq2_kt = decoder_of("gguf-iq1-kt", IQ4), decoder_of("gguf-iq2-kt", IQ4)
decode_iq3_kt, decode_iq4_kt = decoder_of("gguf-iq3-kt", IQ4), decoder_of("gguf-iq4-kt", IQ4)
