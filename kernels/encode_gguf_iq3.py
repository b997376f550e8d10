"""GGUF's IQ3 types: points of a codebook found by searching, with weights of errors.

| type | scales of 32 elements | signs | points chosen again |
|---|---|---|---|
| IQ3_XXS | 31 around greatest / 15 | even in number | those not in the grid |
| IQ3_S | 19 around greatest / 15 | any | all, where one was not in the grid |

A weight is that of the column times `sqrt(variance + w * w)`, the variance being twice the mean of
`w * w` in a block; without an importance matrix, `w * w`. As in ggml, points and signs of IQ3_S
leave no room for a run of 32 zeros: those of later runs move up, and the last ones are 0.
Layouts are in `gguf_iq3`. Source: ggml `src/ggml-quants.c`,
`quantize_row_iq3_xxs_impl`, `quantize_row_iq3_s_impl`.
"""

from __future__ import annotations

from anamnesis.kernels._ends_ggml import by_grid, nibbles, top_bits
from anamnesis.kernels._ggml import of_points

ends_iq3_s = by_grid("iq3s_grid", nibbles(106), 32, 1.0, 2.0)
ends_iq3_xxs = by_grid("iq3xxs_grid", top_bits(69, 4, 8), 32, 0.25, 0.5)
encode_iq3_xxs = of_points("gguf-iq3-xxs", "iq3xxs_grid", 2)
encode_iq3_s = of_points("gguf-iq3-s", "iq3s_grid", 2)
