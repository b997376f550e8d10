"""GGUF's IQ2 types: points of a codebook found by searching, with weights of errors.

| type | scales | signs | variance in weights | points chosen again |
|---|---|---|---|---|
| IQ2_XXS | of 32, 13 around that of a first search | even in number | mean of `w * w` | all |
| IQ2_XS | of 16, 19 around greatest / 5 | even in number | the same | those not in the grid |
| IQ2_S | the same | any | twice that | the same |

Scales are of so many elements. A weight is that of the column times `sqrt(variance + w * w)`;
without an importance matrix, which IQ2_S alone can do, `variance / 4 + w * w`. Layouts are in
`gguf_iq2`.
Source: ggml `src/ggml-quants.c`, `quantize_row_iq2_xxs_impl`, `_iq2_xs_impl`, `_iq2_s_impl`.
"""

from __future__ import annotations

from anamnesis.kernels._ends_ggml import by_grid, nibbles, top_bits
from anamnesis.kernels._ggml import of_points

ends_iq2_s = by_grid("iq2s_grid", nibbles(74), 16, 0.125, 0.25)
ends_iq2_xs = by_grid("iq2xs_grid", nibbles(66), 16, 0.125, 0.25)
ends_iq2_xxs = by_grid("iq2xxs_grid", top_bits(9, 8, 8), 32, 0.125, 0.25)
encode_iq2_xxs = of_points("gguf-iq2-xxs", "iq2xxs_grid", 1)
encode_iq2_xs = of_points("gguf-iq2-xs", "iq2xs_grid", 1)
encode_iq2_s = of_points("gguf-iq2-s", "iq2s_grid", 2, 0.25)
