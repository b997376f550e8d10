"""ik_llama.cpp's IQ1_S_R4 and IQ1_M_R4: blocks of 32 elements of four rows, of their own layouts.

| type | bytes, before them | layout |
|---|---|---|
| IQ1_S_R4 | 24, d f16[4] | qs u8[16], qh u16[4]: 4 * 3 bits, 3 bits of scale, the shift's sign |
| IQ1_M_R4 | 28, d f16[4] | qs u8[16], qh u8[8]: 2 * (3 bits, the shift's sign); scales u8[4] |

Eight elements are a point of IQ1_S's grid, whose index is a byte of `qs` and three bits of `qh`
above it. The byte of point i of row k is `4 i + k`; IQ1_M_R4 has two halves of 16 elements, with an
item of `qh` each, `4 half + k`, and half a byte of the row's scale:

    IQ1_S_R4    d * (2 * scale + 1) * (point + shift)
    IQ1_M_R4    d * scale * (point + shift)

with a shift of 0.125 or -0.125; both products are exact in float32. Source:
https://github.com/ikawrakow/ik_llama.cpp ggml/src/iqk/iqk_quantize.cpp (`dequantize_row_iq1_s_r4`,
`dequantize_row_iq1_m_r4`), ggml/src/ggml-common.h.
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._grids import read
from anamnesis.kernels._native import kernel
from anamnesis.kernels.types import Array, Params, Views

ROWS, RUN = 4, 32
_HEAD = 8  # bytes of four scales
_SIZES = {False: 24, True: 28}
_GRID = read("iq1s_grid").astype(np.float32)
_rows = kernel("iq1_rows:rows")


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Groups of four rows `window`, of uint8 `payload` `[units, bytes]`.

    `params`: `halves`, whether the type is IQ1_M_R4. Raises ValueError for what is not whole.
    """
    groups, halves = np.ascontiguousarray(blocks["payload"]), params["halves"]
    count, rest = divmod(groups.shape[1] - _HEAD, _SIZES[halves])
    if rest or count < 0 or out.shape != (len(groups) * ROWS * count * RUN,):
        raise ValueError(f"groups of {groups.shape[1]:,} bytes, out {out.shape}: {window}")
    _rows(groups, halves, _GRID, out)
