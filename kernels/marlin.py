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

from collections.abc import Mapping
from typing import Any

import numpy as np

from anamnesis.kernels import Window, ct

OUTPUTS, INPUTS = 64, 16  # of a tile
_TILE_BYTES = OUTPUTS * INPUTS // 2


def _places() -> Any:
    """Where each code of a tile lies, `[output, input]`, counted in nibbles."""
    places = np.empty((OUTPUTS, INPUTS), np.int64)
    for lane in range(32):
        for j in range(4):
            for place, e in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
                output = 16 * j + lane // 4 + 8 * (e // 4)
                places[output, 2 * (lane % 4) + (0, 1, 8, 9)[e % 4]] = 8 * (4 * lane + j) + place
    return places.reshape(-1)


_PLACES = _places()
# Which of 64 stored scales is that of each output; of one group, 32 at a time.
_GROUPED = np.arange(OUTPUTS).reshape(8, 8).T.reshape(-1)
_ORDER = [2 * i + j for i in range(4) for j in (0, 1, 8, 9, 16, 17, 24, 25)]
_SINGLE = np.argsort(_ORDER)
_ALONE = np.concatenate([_SINGLE, 32 + _SINGLE])


def decode(blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any) -> None:
    """Units `window` of 64 outputs, from uint8 `[in / 16, bytes]` of `B` and `[groups, bytes]`.

    `params` are what `ct.prepare` made. Raises ValueError for arrays that do not fit one another.
    """
    units, tiles = window.stop - window.start, blocks["B"]
    if tiles.shape[1] != units * _TILE_BYTES or out.size != units * OUTPUTS * INPUTS * len(tiles):
        raise ValueError(f"B {tiles.shape}, out {out.shape} for {units} units")
    raw = np.ascontiguousarray(tiles).reshape(len(tiles), units, _TILE_BYTES)
    codes = np.stack([raw & 15, raw >> 4], -1).reshape(len(tiles), units, -1)[..., _PLACES]
    codes = codes.reshape(len(tiles), units, OUTPUTS, INPUTS).transpose(1, 2, 0, 3)
    pairs = codes.reshape(units * OUTPUTS, -1, 2)
    rows = pairs[..., 0] | pairs[..., 1] << 4
    stored = np.ascontiguousarray(blocks["s"]).view(np.uint16).reshape(-1, units, OUTPUTS)
    scales = stored[..., _ALONE if len(stored) == 1 else _GROUPED].reshape(len(stored), -1).T
    parts = {
        "weight_packed": np.ascontiguousarray(rows),
        "weight_scale": np.ascontiguousarray(scales).view(np.uint8),
    }
    ct.decode_packed(parts, params, window, out)
