"""GGUF's IQ1 types: eight of -1, 0, 1 at a time from a codebook, all moved by an eighth.

Sources: ggml-org/llama.cpp, ggml/src/ggml-common.h (`block_iq1_s`, `block_iq1_m`, `iq1s_grid`,
`IQ1S_DELTA`) and ggml/src/ggml-quants.c (`dequantize_row_iq1_s`, `_iq1_m`).

| type | elements, bytes | layout |
|---|---|---|
| IQ1_S | 256, 50 | d f16; qs u8[32]; qh u16[8]: 4 * 3 bits, 3 bits of scale, the shift's sign |
| IQ1_M | 256, 56 | qs u8[32]; qh u8[16]: 2 * (3 bits, the shift's sign); scales u16[4] |

An item of `qh` belongs to four points (IQ1_S) or two (IQ1_M); its three bits are bits 8-10 of a
point's index. A word of IQ1_M's `scales` holds the scales of four runs of 16, three bits each; the
top four bits of the four words together are `d` as f16.
The value is `d * (2 * scale + 1) * (point + shift)`, the products exact in float32.
"""

from __future__ import annotations

from anamnesis.kernels._blocks import decoder_of
from anamnesis.kernels._grids import point_words

# Codes: bits 0-1 one of -1, 0, 1, bit 2 the shift's sign, bit 3 the second scale of a table.
GRID, POINTS = point_words("iq1s_grid")
decode_iq1_s = decoder_of("gguf-iq1-s", GRID)
decode_iq1_m = decoder_of("gguf-iq1-m", GRID)
