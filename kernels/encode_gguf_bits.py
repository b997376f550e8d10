"""GGUF's one- and two-bit types: signs (Q1_0), two bits (Q2_0), ternary (TQ1_0, TQ2_0).

| type | elements | scale d | code of an element |
|---|---|---|---|
| Q1_0 | 128 | mean magnitude, summed from the first on | `w >= 0` |
| Q2_0 | 64 | greatest magnitude | `clamp(roundf(w / d) + 1, 0, 3)` |
| TQ1_0, TQ2_0 | 256 | greatest magnitude | `roundf(w / d) + 1` |

where `w / d` is `w * (1 / d)`. Layouts are in `gguf_bits`; TQ1_0's bytes are five base-3 digits as
a fraction of 243, rounded up. Source: ggml `src/ggml-quants.c`, `quantize_row_q1_0_ref`,
`quantize_row_q2_0_ref`, `quantize_row_tq1_0_ref`, `quantize_row_tq2_0_ref`.
"""

from __future__ import annotations

from anamnesis.kernels._ends_ggml import by_scale
from anamnesis.kernels._ggml import of_blocks
from anamnesis.kernels._native import kernel

encode_q1_0 = of_blocks("gguf-q1-0", kernel("encode_gguf_bits:q1_0"))
encode_q2_0 = of_blocks("gguf-q2-0", kernel("encode_gguf_bits:q2_0"))
encode_tq1_0 = of_blocks("gguf-tq1-0", kernel("encode_gguf_bits:tq1_0"))
encode_tq2_0 = of_blocks("gguf-tq2-0", kernel("encode_gguf_bits:tq2_0"))
ends_q1_0, ends_q2_0 = by_scale(-2, 2), by_scale(-1.5, 2.5)
ends_tq1_0, ends_tq2_0 = by_scale(-1.5, 1.5, at=52), by_scale(-1.5, 1.5, at=64)
