"""Marlin's four bits: tiles of 16 inputs and 64 outputs in the order that a tensor core takes them.

| tensor | stored, of `[out, in]` |
|---|---|
| `B` | I32 `[in / 16, 2 * out]`: a line of 16 inputs, 512 bytes for every 64 outputs |
| `s` | F16 `[groups, out]`, 64 outputs at a time in an order of their own; `[1, out]`: 32 |

The 1024 codes of a tile lie in 128 words, the first in the lowest bits. With l from 0 to 31, j from
0 to 3, and e from 0 to 7, word 4 l + j has at place e (of 0 2 4 6 1 3 5 7) output

    16 j + l div 4 + 8 (e div 4)   and input   2 (l mod 4) + (0, 1, 8, 9)[e mod 4]

    value = (code - 8) * scale          float32, rounded once to BF16

Codes are brought into rows, and `ct.py` decodes those. Source:
https://github.com/IST-DASLab/marlin marlin/__init__.py (`_get_perms`, `Layer.pack`); PyPI auto-gptq
0.7.1 nn_modules/qlinear/qlinear_marlin.py.
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels import Window, _tiles, ct
from anamnesis.kernels.types import Array, Params, Views

_lane, _j, _e = _tiles.threads()
# A thread's eight numbers: inputs 2 m, 2 m + 1, 2 m + 8, 2 m + 9 of two outputs eight apart.
_PLACES = _tiles.places(
    16 * _j + _lane // 4 + 8 * (_e // 4),
    2 * (_lane % 4) + np.array((0, 1, 8, 9))[_e % 4],
    _tiles.NIBBLES,
)
# Which of 64 stored scales is that of each output; of one group, which of 32.
GROUPED = np.arange(64).reshape(8, 8).T.reshape(-1)
ALONE = np.argsort([2 * i + j for i in range(4) for j in (0, 1, 8, 9, 16, 17, 24, 25)])


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Units `window` of 64 outputs, from uint8 `[in / 16, bytes]` of `B` and `[groups, bytes]`.

    `params` are what `ct.prepare` made. Raises ValueError for arrays that do not fit one another.
    """
    codes = _tiles.unpack(blocks["B"], 4, _PLACES)
    if len(codes) != 64 * (window.stop - window.start) or out.size != codes.size:
        raise ValueError(f"B {blocks['B'].shape}, out {out.shape} for units {window}")
    order = ALONE if len(blocks["s"]) == 1 else GROUPED
    parts = {
        "weight_packed": _tiles.pack_rows(codes, 4),
        "weight_scale": _tiles.lines_of_scales(blocks["s"], "<u2", order).view(np.uint8),
    }
    ct.decode_packed(parts, params, window, out)
